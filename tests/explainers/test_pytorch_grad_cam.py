"""Explainers against those of pytorch-grad-cam, and where that is wrong."""

import keras
import numpy as np
import pytest
import reference
import small_classifiers

from keras_lficam.explainers import (
    AblationCAM,
    EigenCAM,
    FinerCAM,
    GradCAM,
    XGradCAM,
)

pytestmark = pytest.mark.oracles

CLASSES = [2, 0, 1, 2]


def in_torch(model):
    """The classifier `hidden` of ours, in PyTorch."""
    import torch

    kernel, bias, first, shift, second, last = (
        torch.from_numpy(weight) for weight in model.get_weights()
    )

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            channels, inner = kernel.shape[-1], first.shape[-1]
            self.convolution = torch.nn.Conv2d(3, channels, 3, padding=1)
            leak = model.get_layer("features").negative_slope
            self.features = torch.nn.LeakyReLU(leak)
            self.inner = torch.nn.Linear(first.shape[0], inner)
            self.outer = torch.nn.Linear(inner, second.shape[-1])

        def forward(self, images):
            x = self.features(self.convolution(images))
            x = x.permute(0, 2, 3, 1).flatten(1)
            return self.outer(torch.relu(self.inner(x)))

    net = Net()
    with torch.no_grad():
        net.convolution.weight.copy_(kernel.permute(3, 2, 0, 1))
        net.convolution.bias.copy_(bias)
        net.inner.weight.copy_(first.T)
        net.inner.bias.copy_(shift)
        net.outer.weight.copy_(second.T)
        net.outer.bias.copy_(last)
    return net.eval()


def theirs(pytorch_grad_cam, name, net, images, classes, **options):
    """Maps `(B, H, W, 1)`, each of its own class."""
    import torch
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps = []
    for image, category in zip(images, classes, strict=True):
        explainer = getattr(pytorch_grad_cam, name)(net, [net.features])
        tensor = torch.from_numpy(image[None].transpose(0, 3, 1, 2).copy())
        asked = {"targets": [ClassifierOutputTarget(int(category))]}
        if name == "FinerCAM":
            asked = {"target_idx": int(category)}
        maps.append(explainer(input_tensor=tensor, **asked, **options))
    return np.concatenate(maps)[..., np.newaxis]


@pytest.fixture
def model():
    return small_classifiers.hidden(activation=None)


@pytest.fixture
def images(rng):
    return rng.normal(size=(4, 6, 6, 3)).astype("float32")


def test_the_two_classifiers_are_one(model, images):
    import torch

    given = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    answer = in_torch(model)(given).detach().numpy()
    np.testing.assert_allclose(
        answer, model.predict_on_batch(images), atol=1e-4
    )


@pytest.mark.parametrize("make", [GradCAM, XGradCAM])
def test_agrees(make, pytorch_grad_cam, model, images):
    expected = theirs(
        pytorch_grad_cam, make.__name__, in_torch(model), images, CLASSES
    )
    actual = make(model)(images, CLASSES)
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_defect_channel_that_sums_to_zero_outweighs_all_others(
    pytorch_grad_cam,
):
    """Theirs adds 1e-7 to the sum, and divides by it."""
    model = small_classifiers.hidden(2, activation=None, channels=3)
    kernel, *rest = model.get_weights()
    kernel[:], kernel[1, 1] = 0, np.eye(3)  # The colors are the channels.
    rest[0][:] = 0
    model.set_weights([kernel, *rest])
    image = np.abs(np.random.default_rng(3).normal(size=(1, 2, 2, 3)))
    # Red sums to zero behind the leaky ReLU, which halves what is negative.
    image[0, ..., 0] = [[1, 2], [-2, -4]]
    image = image.astype("float32")
    expected = theirs(pytorch_grad_cam, "XGradCAM", in_torch(model), image, [0])
    alone = np.maximum(image[..., :1], 0.5 * image[..., :1])
    near = [
        np.abs(expected - reference.stretch(np.maximum(sign * alone, 0))).max()
        for sign in (1, -1)
    ]
    assert min(near) < 1e-3  # Red is all that theirs shows.
    assert np.abs(XGradCAM(model)(image, 0) - expected).max() > 0.1


def test_eigen_cam_that_is_centered_is_another(pytorch_grad_cam, model, images):
    """Theirs takes the mean off, which the paper does not."""
    trunk = keras.Model(model.input, model.get_layer("features").output)
    maps = {}
    for centered in (True, False):
        projected = []
        for every in trunk.predict_on_batch(images).astype("float64"):
            seen = every.reshape(36, -1)
            seen = seen - centered * seen.mean(axis=0)
            projected.append(seen @ np.linalg.svd(seen)[2][0])
        maps[centered] = np.reshape(projected, (4, 6, 6, 1))
    expected = theirs(
        pytorch_grad_cam, "EigenCAM", in_torch(model), images, CLASSES
    )
    ours = EigenCAM(model)(images)
    # Theirs shows either side.
    for actual, projected in ((expected, maps[True]), (ours, maps[False])):
        for index in range(4):
            near = [
                np.abs(
                    actual[index]
                    - reference.stretch(
                        np.maximum(sign * projected[[index]], 0)
                    )[0]
                ).max()
                for sign in (1, -1)
            ]
            assert min(near) < 1e-3
    assert np.abs(ours - expected).max() > 0.1


def test_ablation_cam_agrees_where_the_logit_is_positive(
    pytorch_grad_cam, images
):
    """Theirs is turned around elsewhere, as it divides by the logit.

    Behind a ReLU, for where a map is anywhere negative theirs makes a channel
    -1e7 in place of 0.
    """
    model = small_classifiers.hidden(activation=None, leak=0)
    logits = model.predict_on_batch(images)
    positive, negative = np.argwhere(logits > 0), np.argwhere(logits < 0)
    assert min(len(positive), len(negative)) > 2
    net = in_torch(model)
    for pairs, sign in ((positive, 1), (negative, -1)):
        chosen, classes = images[pairs[:, 0]], pairs[:, 1]
        expected = theirs(pytorch_grad_cam, "AblationCAM", net, chosen, classes)
        ours = AblationCAM(model)(chosen, classes)
        near = np.abs(ours - expected).max(axis=(1, 2, 3)) < 1e-3
        assert near.all() if sign == 1 else not near.any()


def test_finer_cam_agrees_against_one_other_class(
    pytorch_grad_cam, model, images
):
    """Of several, theirs weighs each by a probability that it differentiates.

    Of one it cancels, unless it is as small as the 1e-9 that theirs adds to it;
    so the logits are made small.
    """
    *others, kernel, bias = model.get_weights()
    model.set_weights([*others, 0.02 * kernel, 0.02 * bias])
    net = in_torch(model)
    asked = {"alpha": 0.6, "comparison_categories": [1]}
    expected = theirs(
        pytorch_grad_cam, "FinerCAM", net, images, CLASSES, **asked
    )
    actual = FinerCAM(model, num_references=1)(images, CLASSES)
    np.testing.assert_allclose(actual, expected, atol=1e-3)
    asked["comparison_categories"] = [1, 2]
    expected = theirs(
        pytorch_grad_cam, "FinerCAM", net, images, CLASSES, **asked
    )
    actual = FinerCAM(model, num_references=2)(images, CLASSES)
    assert np.abs(actual - expected).max() > 0.02
