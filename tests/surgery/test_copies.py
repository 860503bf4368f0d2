"""A copy behaves as what it is a copy of, and its strides are counted right."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_lficam
from keras_lficam import surgery

SIZE = 32


def random_images(rng, count=4):
    return rng.uniform(0, 255, (count, SIZE, SIZE, 3)).astype("float32")


def convolution(filters=4, **options):
    return keras.layers.Conv2D(filters, 3, padding="same", **options)


def classifier(image, features):
    x = keras.layers.GlobalAveragePooling2D()(features)
    return keras.Model(image, keras.layers.Dense(2)(x))


def features_of(split, images):
    model = keras.Model(split.image, split.features)
    return ops.convert_to_numpy(model(images))


# -- What is frozen inside a layer


class Block(keras.layers.Layer):
    """A layer of layers, which Keras cannot look into."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = convolution(name="inner")
        self.norms = [keras.layers.BatchNormalization() for _ in range(2)]

    def build(self, shape):
        self.convolution.build(shape)
        for norm in self.norms:
            norm.build((*shape[:-1], 4))

    def call(self, images, training=None):
        x = self.convolution(images)
        for norm in self.norms:
            x = norm(x, training=training)
        return x


def with_block(block):
    image = keras.Input((SIZE, SIZE, 3))
    return classifier(image, block(image))


def moved(block, images, call):
    before = [norm.moving_mean.numpy() for norm in block.norms]
    call(images, training=True)
    return [
        not np.array_equal(norm.moving_mean.numpy(), old)
        for norm, old in zip(block.norms, before, strict=True)
    ]


def freeze_all(block):
    block.trainable = False


def freeze_the_second(block):
    block.norms[1].trainable = False


def freeze_all_but_the_second(block):
    block.trainable = False
    block.norms[1].trainable = True


def freeze_a_kernel(block):
    block.convolution.kernel.trainable = False


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (freeze_all, [False, False]),
        (freeze_the_second, [True, False]),
        (freeze_all_but_the_second, [False, True]),
        (freeze_a_kernel, [True, True]),
    ],
)
def test_what_is_frozen_inside_a_layer_stays_so(freeze, expected, rng):
    model = with_block(Block(name="block"))
    block = model.get_layer("block")
    freeze(block)
    attached = keras_lficam.attach(model, architecture="plain")
    copy = attached.get_layer("block")
    images = random_images(rng)
    assert moved(block, images, model) == expected
    assert moved(copy, images, attached) == expected
    for weight, other in zip(copy.weights, block.weights, strict=True):
        assert weight.trainable == other.trainable
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


class Holder(keras.layers.Layer):
    """Holds a layer that may be another's, too."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, images):
        return self.inner(images)


class Pair(keras.layers.Layer):
    """Two holders of one layer; the layer is held by both."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        shared = keras.layers.BatchNormalization(name="shared")
        self.first, self.second = Holder(shared), Holder(shared)

    def build(self, shape):
        self.first.inner.build(shape)

    def call(self, images):
        return self.second(self.first(images))


def test_a_layer_that_two_hold_has_its_own_say(rng):
    """It comes after both: the second would freeze it once more."""
    image = keras.Input((SIZE, SIZE, 3))
    model = classifier(image, Pair(name="pair")(image))
    pair = model.get_layer("pair")
    pair.second.trainable = False
    pair.first.inner.trainable = True
    attached = keras_lficam.attach(model, architecture="plain")
    copy = attached.get_layer("pair")
    assert copy.first.trainable
    assert not copy.second.trainable
    images = random_images(rng)
    attached(images, training=True)
    # Two calls, of momentum 0.99: of the images, then of what has mean 0.
    mean = images.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(
        copy.first.inner.moving_mean.numpy(), 0.01 * 0.99 * mean, rtol=1e-3
    )


def test_frozen_backbone_of_keras_hub_stays_frozen(rng):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(SIZE, SIZE, 3),
        name="trunk",
    )
    backbone.trainable = False
    image = keras.Input((SIZE, SIZE, 3))
    model = classifier(image, backbone(image))
    attached = keras_lficam.attach(model)
    before = backbone.get_weights()
    attached(random_images(rng), training=True)
    for weight, old in zip(
        attached.get_layer("trunk").get_weights(), before, strict=True
    ):
        np.testing.assert_array_equal(weight, old)


class Forgetful(keras.layers.Layer):
    """Has a layer inside that its configuration does not tell of."""

    def __init__(self, drops=False, **kwargs):
        super().__init__(**kwargs)
        self.inner = [keras.layers.Dropout(0.5)] if drops else []

    def call(self, images):
        return images

    def get_config(self):
        return {"name": self.name}


def test_layer_that_is_made_otherwise_is_refused():
    model = with_block(Forgetful(drops=True))
    with pytest.raises(ValueError, match="type Forgetful.*get_config"):
        keras_lficam.attach(model)


# -- Layers that are called more than once


def reusing(rng):
    """One pooling and one ReLU for two convolutions."""
    pool = keras.layers.MaxPooling2D(name="pool")
    relu = keras.layers.ReLU(name="relu")
    image = keras.Input((SIZE, SIZE, 3))
    x = pool(relu(convolution(name="first")(image)))
    x = pool(relu(convolution(name="second")(x)))
    model = classifier(image, x)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def test_pooling_that_is_called_twice_loses_its_second_stride(rng):
    """By hand: 32 pooled to 16, then the window of 2 at every cell."""
    model = reusing(rng)
    images = random_images(rng)
    x = ops.convert_to_tensor(images)
    for name, stride in (("first", 2), ("second", 1)):
        layer = model.get_layer(name)
        x = ops.relu(ops.conv(x, layer.kernel, padding="same") + layer.bias)
        x = ops.max_pool(x, 2, strides=stride, padding="same")
    split = surgery.split_copy(model, output_stride=2)
    assert split.features.shape == (None, 16, 16, 4)
    np.testing.assert_allclose(
        features_of(split, images),
        ops.convert_to_numpy(x),
        rtol=1e-4,
        atol=1e-2,
    )
    layers = keras.Model(split.image, split.features).layers
    strides = {
        layer.name: layer.strides
        for layer in layers
        if isinstance(layer, keras.layers.MaxPooling2D)
    }
    assert strides["pool"] == (2, 2)
    assert sorted(strides.values()) == [(1, 1), (2, 2)]
    # The ReLU changes nowhere and is one layer still.
    assert sum(isinstance(la, keras.layers.ReLU) for la in layers) == 1


def test_weights_that_two_calls_share_are_not_parted():
    shared = convolution(3, strides=2, name="shared")
    image = keras.Input((SIZE, SIZE, 3))
    model = classifier(image, shared(shared(image)))
    with pytest.raises(
        ValueError,
        match="`output_stride` must not.*'shared' of type Conv2D.*"
        "Received: output_stride=2.*To fix this.*of its own",
    ):
        keras_lficam.attach(model, output_stride=2)
    for stride, size in ((4, 8), (1, 32)):  # The calls agree.
        split = surgery.split_copy(model, output_stride=stride)
        assert split.features.shape == (None, size, size, 3)


def test_attention_branch_of_a_stage_that_shares_layers(rng):
    """A copy of the stage would pool apart from the trunk: there is none."""
    model = reusing(rng)
    attached = keras_lficam.attach(model, architecture="abn")
    drawn = attached.get_layer("attention_map").output
    assert drawn.shape == (None, 8, 8, 1)
    names = {layer.name for layer in attached.layers}
    assert "attention_stage_1_convolution" in names
    predicted = attached.predict(random_images(rng), verbose=0)
    assert predicted["predictions"].shape == (4, 2)


@pytest.mark.parametrize("shared", ["before", "within"])
def test_last_stage_of_a_net_that_calls_layers_twice(shared, rng):
    relus = [keras.layers.ReLU() for _ in range(4)]
    if shared == "before":
        relus[1] = relus[0]
    else:
        relus[3] = relus[2]
    image = keras.Input((SIZE, SIZE, 3))
    x = relus[0](convolution(strides=2)(image))
    x = before = relus[1](convolution(5)(x))
    x = relus[2](convolution(6, strides=2, name="last")(x))
    x = relus[3](convolution(7, name="end")(x))
    extracted, stage = surgery.last_stage(image, x)
    assert extracted is before
    assert {"last", "end"} < {layer.name for layer in stage.layers}
    branch = surgery.at_stride_one(stage, extracted)
    assert branch.shape == (None, 16, 16, 7)
    attached = keras_lficam.attach(classifier(image, x), architecture="abn")
    drawn = attached.get_layer("attention_map").output
    assert drawn.shape == (None, 16, 16, 1)


def test_nested_model_that_is_called_by_keyword_is_refused():
    inner = keras.Sequential([keras.Input((SIZE, SIZE, 3)), convolution()])
    image = keras.Input((SIZE, SIZE, 3))
    model = classifier(image, inner(inputs=image))
    with pytest.raises(ValueError, match="keywords alone.*positional"):
        keras_lficam.attach(model)


# -- What reduces a map


def valid():
    """The net of many a tutorial: 32, 30, 15, 13, 6, 4."""
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    return image, x


@pytest.mark.parametrize(
    "last",
    [
        lambda: keras.layers.Conv2D(4, 3, name="last"),
        lambda: keras.layers.AveragePooling2D(3, strides=1, name="last"),
        lambda: keras.layers.Cropping2D(1, name="last"),
    ],
    ids=["convolution", "pooling", "cropping"],
)
def test_borders_that_are_lost_are_no_stride(last, rng):
    image, x = valid()
    assert x.shape == (None, 6, 6, 4)
    model = classifier(image, last()(x))
    images = random_images(rng)
    theirs = keras.Model(image, model.get_layer("last").output)
    split = surgery.split_copy(model, output_stride=4)  # As it has.
    np.testing.assert_array_equal(
        features_of(split, images), ops.convert_to_numpy(theirs(images))
    )
    # Without the second stride: 32, 30, 15, 13, 13, 11.
    split = surgery.split_copy(model, output_stride=2)
    assert split.features.shape == (None, 11, 11, 4)
    with pytest.raises(ValueError, match=r"\[1, 2, 4\].*output_stride=8"):
        surgery.split_copy(model, output_stride=8)


def test_number_may_stand_before_its_map(rng):
    image = keras.Input((SIZE, SIZE, 3))
    x = convolution(strides=2, name="first")(image)
    x = 2.0 * x
    x = 1.0 - x
    x = convolution(strides=2, name="second")(x)
    model = classifier(image, x)
    images = random_images(rng)
    expected = ops.convert_to_tensor(images)
    for name, stride in (("first", 2), ("second", 1)):
        layer = model.get_layer(name)
        expected = ops.conv(expected, layer.kernel, stride, "same")
        expected = expected + layer.bias
        if stride == 2:
            expected = 1.0 - 2.0 * expected
    split = surgery.split_copy(model, output_stride=2)
    np.testing.assert_allclose(
        features_of(split, images),
        ops.convert_to_numpy(expected),
        rtol=1e-4,
        atol=1e-2,
    )


def test_stride_is_that_of_all_that_a_call_is_given():
    """The mean of the image has passed no stride, what it is added to has."""
    image = keras.Input((SIZE, SIZE, 3))
    mean = ops.mean(image, axis=(1, 2), keepdims=True)
    x = mean + convolution(3, strides=2)(image)
    x = convolution(strides=2)(x)
    model = classifier(image, x)
    assert surgery.split_copy(model, output_stride=4).features.shape[1] == 8
    assert surgery.split_copy(model, output_stride=2).features.shape[1] == 16
    with pytest.raises(ValueError, match=r"\[1, 2, 4\].*output_stride=8"):
        surgery.split_copy(model, output_stride=8)


def test_layer_that_does_reduce_inside_itself_is_still_told():
    image = keras.Input((SIZE, SIZE, 3))
    x = convolution(strides=2)(image)
    x = x[:, ::2, ::2]
    with pytest.raises(ValueError, match="GetItem reduces the map inside"):
        surgery.split_copy(classifier(image, x), output_stride=2)
    assert surgery.last_stage(image, x) is None
