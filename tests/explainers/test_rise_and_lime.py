"""RISE and LIME against rewrites by hand, and against the package `lime`."""

import functools

import explainer_contract
import keras
import numpy as np
import pytest
import reference
from explainer_contract import check_explainer, without_graphs
from keras import ops

from keras_lficam.explainers import LIME, RISE

untraced = explainer_contract.untraced
first_compiled = explainer_contract.first_compiled

SIZE = (20, 24)


def blocks(image):
    """Cuts an image into superpixels of 5x6, called 10, 12, 14 and so on."""
    height, width = image.shape[:2]
    rows, columns = np.arange(height) // 5, np.arange(width) // 6
    return 10 + 2 * (rows[:, None] * -(-width // 6) + columns)


# Few samples, so that the tests are quick.
quick_rise = functools.partial(RISE, samples=40, cells=4)
quick_lime = functools.partial(LIME, samples=40, segments=blocks)


@pytest.fixture(params=[quick_rise, quick_lime], ids=["RISE", "LIME"])
def make(request):
    return request.param


@pytest.fixture
def images(rng):
    """Three images with something to see, 0 to 255."""
    coarse = rng.uniform(0, 255, (3, 5, 6, 3)).astype("float32")
    return ops.convert_to_numpy(ops.image.resize(coarse, SIZE))


def network(activation="softmax", size=SIZE):
    image = keras.Input((*size, 3))
    x = keras.layers.Rescaling(1 / 128, -1)(image)
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    spread = keras.initializers.RandomNormal(stddev=4.0, seed=1)
    x = keras.layers.Dense(3, kernel_initializer=spread)(x)
    x = keras.layers.Activation(activation, dtype="float32")(x)
    return keras.Model(image, x)


def pixels(size):
    """Gives every value of the image as the score of a class of its own."""
    image = keras.Input((*size, 3))
    return keras.Model(image, keras.layers.Flatten()(image))


def constant(probabilities, size=SIZE):
    """Answers the same for every image."""
    image = keras.Input((*size, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    dense = keras.layers.Dense(len(probabilities), activation="softmax")
    model = keras.Model(image, dense(x))
    dense.set_weights(
        [np.zeros((3, len(probabilities))), np.log(probabilities)]
    )
    return model


def masks_by_hand(rise, size):
    """Makes the masks of RISE, pixel by pixel."""
    height, width = (int(np.ceil(length / rise.cells)) for length in size)
    masks = []
    for grid, (down, right) in zip(rise.grids, rise.shifts, strict=True):
        large = reference.bilinear(
            grid.astype("float64"),
            (rise.cells + 1) * height,
            (rise.cells + 1) * width,
        )
        top, left = int(down * height), int(right * width)
        masks.append(large[top : top + size[0], left : left + size[1]])
    return np.stack(masks)


def published_sum(rise, probability, image, category):
    """The saliency of RISE from its definition."""
    masks = masks_by_hand(rise, image.shape[:2])
    scores = probability(image * masks[..., None])[:, category]
    total = sum(score * mask for score, mask in zip(scores, masks, strict=True))
    return total / (rise.samples * rise.keep)


def stretched(x):
    return (x - x.min()) / (x.max() - x.min())


def test_contract(make, images, tmp_path):
    check_explainer(make, network(), images, tmp_path)


# RISE


def test_rise_masks_are_those_made_pixel_by_pixel():
    size = (7, 11)  # Neither is a multiple of the cells.
    rise = RISE(pixels(size), samples=9, cells=3, activation="linear")
    masks = masks_by_hand(rise, size)
    red = 3 * np.arange(77)
    saliency = rise.saliency(np.ones((77, *size, 3)), red)
    # White pixel c of a masked image is the mask there, so the sum for the
    # class of pixel c at pixel d is sum_i m_i(c) m_i(d).
    flat = masks.reshape(9, 77)
    np.testing.assert_allclose(
        saliency.reshape(77, 77), flat.T @ flat / (9 * 0.5), atol=1e-5
    )
    assert 0 == masks.min() < masks.max() == 1


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("chunk_size", [3, 12, 50])
def test_rise_is_the_published_sum(chunk_size, images):
    model = network()
    rise = RISE(model, samples=12, cells=4, keep=0.3, chunk_size=chunk_size)
    probability = model.predict_on_batch
    saliency, maps = rise.saliency(images, [0, 1, 2]), rise(images, [0, 1, 2])
    for index, image in enumerate(images):
        expected = published_sum(rise, probability, image, index)
        np.testing.assert_allclose(saliency[index, ..., 0], expected, rtol=1e-4)
        np.testing.assert_allclose(
            maps[index, ..., 0], stretched(expected), atol=1e-4
        )


def test_rise_finds_the_one_pixel_that_counts():
    """Its saliency is E[m^2] / keep there, and E[m] far away.

    The grid's cells are 10 pixels apart, and pixel 16, under 8 shifts, lies
    0.15, 0.25 and so on to 0.85 of the way from one cell to the next. With
    the weights `t` and `1 - t` of an interpolation squared,

        E[t^2 + (1 - t)^2] = 0.605
        E[m^2] = keep^2 + keep (1 - keep) 0.605^2
    """
    rise = RISE(
        pixels((32, 32)),
        samples=4000,
        cells=4,
        activation="linear",
        chunk_size=500,
    )
    middle = 3 * (16 * 32 + 16)
    saliency = rise.saliency(np.ones((32, 32, 3)), middle)[0, ..., 0]
    assert saliency[16, 16] == pytest.approx(0.5 + 0.5 * 0.605**2, abs=0.02)
    brightest = np.unravel_index(saliency.argmax(), saliency.shape)
    np.testing.assert_allclose(brightest, (16, 16), atol=1)
    corners = saliency[[0, 0, -1], [0, -1, 0]]
    np.testing.assert_allclose(corners, 0.5, atol=0.03)


@pytest.mark.usefixtures("untraced")
def test_defect_one_random_shift_for_a_whole_batch_of_rise_masks():
    size = (16, 20)
    rise = RISE(constant([1 / 4, 3 / 4], size), samples=32, cells=4)
    rise.grids[:] = np.eye(4, dtype=bool)
    masks = masks_by_hand(rise, size)
    assert len({mask.tobytes() for mask in masks}) > 12
    saliency = rise.saliency(np.ones((*size, 3)), 1)[0, ..., 0]
    np.testing.assert_allclose(
        saliency, 0.75 * masks.mean(axis=0) / 0.5, rtol=1e-5
    )


def test_rise_shifts_and_cells_are_as_random_as_said():
    rise = RISE(constant([0.5, 0.5]), samples=4000, cells=4, keep=0.2)
    assert rise.grids.mean() == pytest.approx(0.2, abs=0.01)
    offsets = np.floor(rise.shifts * 5).astype(int)  # 25 places, 160 each.
    counts = np.bincount(offsets[:, 0] * 5 + offsets[:, 1], minlength=25)
    assert 160 - 60 < counts.min() < counts.max() < 160 + 60


def test_rise_mask_does_not_depend_on_how_many_follow():
    model = constant([0.5, 0.5])
    few, many = RISE(model, samples=5), RISE(model, samples=9)
    np.testing.assert_array_equal(few.grids, many.grids[:5])
    np.testing.assert_array_equal(few.shifts, many.shifts[:5])


@pytest.mark.parametrize("keep", [0.1, 0.5])
@pytest.mark.parametrize("samples", [1000, 2000])
def test_defect_missing_one_over_n_p(samples, keep, images):
    rise = RISE(
        constant([1 / 4, 3 / 4]), samples=samples, keep=keep, chunk_size=500
    )
    # An answer that is always the same is the average saliency.
    mean = rise.saliency(images[0], 1).mean()
    assert mean == pytest.approx(0.75, rel=0.04)


# LIME


def ridge_by_hand(samples, probabilities, weights):
    """Normal equations with a column of ones, which is not penalized."""
    z = np.column_stack([samples, np.ones(len(samples))])
    penalty = np.diag([1.0] * samples.shape[1] + [0.0])
    left = z.T @ np.diag(weights) @ z + penalty
    solution = np.linalg.inv(left) @ z.T @ (weights * probabilities)
    return solution[:-1], solution[-1]


def test_lime_solves_the_ridge_of_a_model_linear_in_the_superpixels(images):
    image = keras.Input((*SIZE, 3))
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    lime = LIME(model, samples=300, segments=blocks, activation="linear")
    for index, found in enumerate(lime.surrogates(images, 1)):
        x = images[index].astype("float64")
        kernel = ops.convert_to_numpy(dense.kernel)[:, 1].reshape(x.shape)
        segments = (blocks(x) - 10) // 2
        np.testing.assert_array_equal(found.segments, segments)
        assert found.samples.shape == (300, 16)
        assert found.samples[0].all()
        assert found.samples[1:].mean() == pytest.approx(0.5, abs=0.03)
        # What each superpixel adds to the score over its mean color.
        gains, rest = np.zeros(16), 0.0
        for label in range(16):
            inside = segments == label
            mean = x[inside].mean(axis=0)
            gains[label] = ((x[inside] - mean) * kernel[inside]).sum()
            rest += (mean * kernel[inside]).sum()
        scores = rest + found.samples @ gains
        np.testing.assert_allclose(found.probabilities, scores, atol=1e-3)
        cosine = found.samples.sum(1) / np.sqrt(found.samples.sum(1) * 16)
        weights = np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.25**2))
        np.testing.assert_allclose(found.weights, weights, rtol=1e-9)
        coefficients, intercept = ridge_by_hand(found.samples, scores, weights)
        span = np.abs(coefficients).max()
        np.testing.assert_allclose(
            found.coefficients, coefficients, atol=1e-4 * span
        )
        np.testing.assert_allclose(found.intercept, intercept, rtol=1e-4)
        # The penalty is small beside 300 samples.
        np.testing.assert_allclose(found.coefficients, gains, atol=0.1 * span)


@pytest.mark.usefixtures("untraced")
def test_lime_map_paints_positive_coefficients(images):
    lime = LIME(network(), samples=80, segments=blocks)
    maps, found = lime(images, 2), lime.surrogates(images, 2)
    for attention, surrogate in zip(maps[..., 0], found, strict=True):
        coefficients = surrogate.coefficients
        assert coefficients.min() < 0 < coefficients.max()
        expected = coefficients / coefficients.max()
        expected[coefficients < 0] = 0
        labels = (blocks(images[0]) - 10) // 2
        np.testing.assert_allclose(attention, expected[labels], atol=1e-6)


def test_lime_hides_a_superpixel_in_its_mean_color(rng):
    image = rng.uniform(0, 255, (10, 12, 3)).astype("float32")
    lime = LIME(pixels((10, 12)), segments=blocks, activation="linear")
    # Green of the pixel at row 7 and column 2, in the lower left superpixel.
    (found,) = lime.surrogates(image, (7 * 12 + 2) * 3 + 1)
    shown, hidden = image[7, 2, 1], image[5:, :6, 1].mean()
    np.testing.assert_allclose(
        found.probabilities,
        np.where(found.samples[:, 2], shown, hidden),
        rtol=1e-5,
    )


@pytest.mark.parametrize("value_range", [(0, 255), (0, 1), (-1, 1)])
def test_lime_cuts_an_image_of_any_range_by_quickshift(value_range, rng):
    from skimage.segmentation import quickshift

    image = np.kron(rng.uniform(0, 1, (8, 8, 3)), np.ones((8, 8, 1)))
    image = stretched(image)
    expected = quickshift(
        image, ratio=0.2, kernel_size=8 / 7, max_dist=400 / 7, rng=0
    )
    assert expected.max() > 3
    low, high = value_range
    lime = LIME(network(size=(64, 64)), samples=2)
    (found,) = lime.surrogates(low + (high - low) * image)
    np.testing.assert_array_equal(found.segments, expected)


@pytest.mark.parametrize(
    ("size", "times", "kernel"),
    [
        ((8, 8), 7, 1),
        ((28, 28), 2, 1),
        ((32, 32), 2, 8 / 7),
        ((40, 32), 2, 8 / 7),
        ((64, 64), 1, 8 / 7),
    ],
)
def test_lime_cuts_a_photo_of_any_size_into_enough(size, times, kernel):
    from skimage import data, transform
    from skimage.segmentation import quickshift

    photo = transform.resize(data.astronaut(), size, anti_aliasing=True)
    photo = stretched(photo)
    large = np.stack(
        [
            reference.bilinear(band, times * size[0], times * size[1])
            for band in np.moveaxis(photo, -1, 0)
        ],
        axis=-1,
    )
    expected = quickshift(
        large, ratio=0.2, kernel_size=kernel, max_dist=50 * kernel, rng=0
    )
    middle = slice(times // 2, None, times)
    (found,) = LIME(network(size=size), samples=2).surrogates(255 * photo)
    number = found.segments.max() + 1
    assert 20 <= number <= 60
    # Both name the same superpixels, one to one.
    pairs = set(
        zip(
            expected[middle, middle].ravel(),
            found.segments.ravel(),
            strict=True,
        )
    )
    assert len(pairs) == number == len(np.unique(expected[middle, middle]))


@pytest.mark.parametrize("size", [(224, 224), (240, 320), (1000, 224)])
def test_lime_cuts_from_224_pixels_on_as_published(size, monkeypatch, rng):
    asked = {}

    def quickshift(image, **options):
        asked.update(options, image=image)
        return np.arange(image[..., 0].size).reshape(size) % 2

    monkeypatch.setattr("skimage.segmentation.quickshift", quickshift)
    image = stretched(rng.uniform(size=(*size, 3)))
    LIME(pixels(size), samples=2, activation="linear", seed=5)._superpixels(
        image
    )
    np.testing.assert_array_equal(asked.pop("image"), image)
    assert asked == {
        "ratio": 0.2,
        "kernel_size": 4,
        "max_dist": 200,
        "convert2lab": True,
        "rng": 5,
    }


@pytest.mark.usefixtures("untraced")
def test_lime_sees_something_at_32_pixels_and_in_digits_of_8():
    from skimage import data, transform
    from sklearn.datasets import load_digits

    photos = data.astronaut(), data.coffee(), data.chelsea()
    small = 255 * np.stack([transform.resize(x, (32, 32)) for x in photos])
    digits = load_digits().images[:3, ..., None] * np.full(3, 255 / 16)
    for images in (small, digits):
        model = keras.Sequential(
            [
                keras.Input(images.shape[1:]),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        )
        lime = LIME(model, samples=50, activation="linear")
        for surrogate in lime.surrogates(images):
            assert surrogate.segments.max() >= 8
            # In gray levels of some tens; what is painted over changes.
            assert np.abs(surrogate.coefficients).max() > 0.1


@pytest.mark.parametrize("bands", [2, 4, 5])
def test_lime_cuts_bands_that_are_no_colors(bands):
    from skimage.segmentation import quickshift

    image = keras.Input((64, 64, bands))
    x = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(x))
    # Only the last band tells left from right.
    halves = np.zeros((64, 64, bands))
    halves[:, 32:, -1] = 9
    expected = quickshift(
        100 / np.sqrt(bands) * halves / 9,
        ratio=0.2,
        kernel_size=8 / 7,
        max_dist=400 / 7,
        convert2lab=False,
        rng=0,
    )
    (found,) = LIME(model, samples=2).surrogates(halves)
    np.testing.assert_array_equal(found.segments, expected)
    left, right = found.segments[:, :32], found.segments[:, 32:]
    assert not set(left.ravel()) & set(right.ravel())


def test_lime_refuses_a_single_superpixel(images):
    one = LIME(network(), segments=lambda image: 7 * np.ones(SIZE, int))
    with pytest.raises(ValueError, match="`segments`.*at least two.*one, of"):
        one(images)
    point = LIME(network(size=(None, None)))
    with pytest.raises(ValueError, match=r"`segments`.*\(1, 1, 3\).*To fix"):
        point(images[:, :1, :1])


def test_lime_takes_superpixels_of_ones_own(images):
    from skimage.segmentation import slic

    function = functools.partial(slic, n_segments=6)
    (found,) = LIME(network(), samples=2, segments=function).surrogates(
        images[0]
    )
    labels = slic(stretched(images[0].astype("float64")), n_segments=6)
    np.testing.assert_array_equal(found.segments, labels - 1)


def test_lime_sees_nothing_in_an_answer_that_is_always_the_same(images):
    maps = quick_lime(constant([1 / 4, 3 / 4]))(images)
    np.testing.assert_array_equal(maps, 0)


@pytest.mark.usefixtures("untraced")
def test_lime_of_an_image_of_one_color(make):
    maps = make(network())(np.full((1, *SIZE, 3), 7.0))
    assert np.isfinite(maps).all()


def test_lime_with_more_superpixels_than_samples(images):
    lime = LIME(network(), samples=9, segments=blocks)
    for found in lime.surrogates(images, 1):
        coefficients, intercept = ridge_by_hand(
            found.samples, found.probabilities, found.weights
        )
        np.testing.assert_allclose(found.coefficients, coefficients, atol=1e-6)
        assert found.intercept == pytest.approx(intercept, abs=1e-6)


@pytest.mark.oracles
def test_lime_agrees_with_the_package_lime(images):
    from lime.lime_image import LimeImageExplainer

    model = network()
    lime = LIME(model, samples=200, segments=blocks, chunk_size=50)
    for index, found in enumerate(lime.surrogates(images, 1)):

        class Samples:
            """Draws ours in place of its own."""

            def randint(self, low, high, count, samples=found.samples):
                assert (low, high, count) == (0, 2, samples.size)
                return samples.astype(int).ravel()

        oracle = LimeImageExplainer(feature_selection="none")
        oracle.random_state = Samples()
        answer = oracle.explain_instance(
            images[index].astype("float64"),
            functools.partial(model.predict, verbose=0),
            labels=(1,),
            num_samples=len(found.samples),
            segmentation_fn=lambda _, found=found: found.segments,
            random_seed=0,
        )
        coefficients = dict(answer.local_exp[1])
        np.testing.assert_allclose(
            found.coefficients,
            [coefficients[label] for label in range(len(coefficients))],
            atol=1e-6,
        )
        assert np.abs(found.coefficients).max() > 1e-3
        assert found.intercept == pytest.approx(answer.intercept[1], abs=1e-6)


# Both


class Counter(keras.layers.Layer):
    """Counts the images that go through, where nothing is traced or by JAX."""

    count = 0

    def compute_output_spec(self, images):
        return keras.KerasTensor(images.shape, images.dtype)

    def call(self, images):
        if keras.backend.backend() == "jax":
            import jax

            jax.debug.callback(self._add, len(images))
        else:
            self._add(len(images))
        return images

    def _add(self, number):
        # Keras follows what is set as an attribute.
        self.__dict__["count"] = self.count + int(number)


@pytest.mark.usefixtures("untraced")
def test_passes_are_those_counted(make, images):
    counter = Counter()
    base = network()
    image = keras.Input((*SIZE, 3))
    model = keras.Model(image, base(counter(image)))
    explainer = make(model)
    explainer(images)
    assert counted(counter) == 3 * explainer.passes[0]
    assert explainer.passes[1] == 0


def counted(counter):
    if keras.backend.backend() == "jax":
        import jax

        jax.effects_barrier()
    return counter.count


@pytest.mark.usefixtures("untraced")
def test_named_classes_cost_rise_no_pass_of_their_own(images):
    counter = Counter()
    image = keras.Input((*SIZE, 3))
    model = keras.Model(image, network()(counter(image)))
    quick_rise(model)(images, 1)
    assert counted(counter) == 3 * 40


def answers(explainer, images, category):
    """What an explainer measures, before any stretching."""
    if isinstance(explainer, RISE):
        return explainer.saliency(images, category)
    found = explainer.surrogates(images, category)
    return np.concatenate([surrogate.coefficients for surrogate in found])


@pytest.mark.usefixtures("untraced")
def test_defect_softmax_applied_twice(make, images):
    logits, probabilities = network("linear"), network("softmax")
    probabilities.set_weights(logits.get_weights())
    told = answers(make(logits, activation="softmax"), images, 1)
    found = answers(make(probabilities), images, 1)
    np.testing.assert_allclose(told, found, atol=1e-6)
    # A softmax more would bring them all near to one another.
    predict = probabilities.predict_on_batch
    if make is quick_rise:
        expected = published_sum(make(probabilities), predict, images[0], 1)
        np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-4)
    else:
        first = make(probabilities).surrogates(images, 1)[0]
        expected = predict(images[:1])[0, 1]
        assert first.probabilities[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("untraced")
def test_sigmoid_head_and_logits_told_to_be_of_one(make, images):
    logits, probabilities = network("linear"), network("sigmoid")
    probabilities.set_weights(logits.get_weights())
    told = answers(make(logits, activation="sigmoid"), images, 1)
    found = answers(make(probabilities), images, 1)
    np.testing.assert_allclose(told, found, atol=1e-6)
    other = answers(make(logits, activation="softmax"), images, 1)
    assert np.abs(other - told).max() > 1e-4


@pytest.mark.usefixtures("untraced")
def test_predicted_class_is_that_of_the_scores(make):
    """Sigmoids of 40 and 82 are both 1, yet 82 is more."""
    image = keras.Input((*SIZE, 3))
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    kernel = np.zeros((*SIZE, 3, 2))
    kernel[7, 9, 0, 1] = 0.4  # Class 1 sees red in one pixel.
    dense.set_weights([kernel.reshape(-1, 2), np.array([40.0, -20.0])])
    red = np.zeros((*SIZE, 3))
    red[7, 9, 0] = 255
    explainer = make(model, activation="sigmoid")
    maps = explainer(red)
    np.testing.assert_array_equal(maps, explainer(red, 1))
    assert maps[0, 7, 9] > 0.8
    assert np.abs(explainer(red, 0) - maps).max() > 0.1


def test_unknown_end_is_an_error_at_construction(make):
    image = keras.Input((*SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    unknown = keras.Model(image, keras.layers.Dense(3, activation="tanh")(x))
    for model in (unknown, network("linear")):
        with pytest.raises(ValueError, match="probabilities.*To fix this"):
            make(model)


@pytest.mark.usefixtures("first_compiled")
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_defect_mixed_precision(policy, make, images):
    model = network()
    with without_graphs():
        expected = answers(make(model), images, 1)
    keras.config.set_dtype_policy(policy)
    mixed = network()
    mixed.set_weights(model.get_weights())
    explainer = make(mixed)
    maps = explainer(images, 1)
    assert maps.dtype == "float32"
    assert maps.max() == 1
    actual = answers(explainer, images, 1)
    # bfloat16 has three digits.
    np.testing.assert_allclose(
        actual, expected, atol=0.05 * np.abs(expected).max()
    )
    assert np.abs(actual - expected).max() > 0  # Else nothing was mixed.


@pytest.mark.usefixtures("untraced")
def test_defect_nested_models(make, images):
    flat = network()
    expected = answers(make(flat), images, 1)
    image = keras.Input((*SIZE, 3))
    nested = keras.Model(image, flat(keras.layers.Identity()(image)))
    sequential = keras.Sequential([keras.Input((*SIZE, 3)), flat])
    twice = keras.Sequential([keras.Input((*SIZE, 3)), nested])
    for model in (nested, sequential, twice):
        np.testing.assert_allclose(
            answers(make(model), images, 1), expected, atol=1e-6
        )


def test_images_of_any_size(make, images):
    free = network(size=(None, None))
    explainer = make(free)
    for some in (images, images[:, :13, :17]):
        maps = explainer(some, 1)
        assert maps.shape == (*some.shape[:3], 1)
        fixed = network(size=some.shape[1:3])
        fixed.set_weights(free.get_weights())
        with without_graphs():
            expected = make(fixed)(some, 1)
        np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_it_follows_the_model_when_that_learns(make, images):
    model = network()
    explainer = make(model)
    explainer(images, 1)
    model.set_weights([-weight for weight in model.get_weights()])
    np.testing.assert_allclose(
        explainer(images, 1), make(model)(images, 1), atol=1e-5
    )


@pytest.mark.usefixtures("untraced")
def test_only_the_seed_is_random(make, images):
    model = network()
    before = np.random.get_state()[1].tolist()
    maps = make(model, seed=3)(images)
    assert np.random.get_state()[1].tolist() == before
    keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(make(model, seed=3)(images), maps)
    assert np.abs(make(model, seed=4)(images) - maps).max() > 1e-2


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8", None])
def test_numbers_out_of_range_are_refused(make, value):
    error = ValueError if value in (0, -1) else TypeError
    with pytest.raises(error, match=r"`samples`.*at least 1.*Received"):
        make(network(), samples=value)
    if value != 0:
        with pytest.raises(error, match=r"`seed`.*at least 0.*Received"):
            make(network(), seed=value)
    with pytest.raises(error, match=r"`cells`.*at least 2.*Received"):
        RISE(network(), cells=value)


@pytest.mark.parametrize("keep", [0, 1, -0.5, float("nan")])
def test_share_of_cells_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match="`keep`.*between 0 and 1.*Received"):
        RISE(network(), keep=keep)


def test_superpixels_that_are_none_are_refused(images):
    with pytest.raises(TypeError, match="`segments`.*function.*To fix this"):
        LIME(network(), segments=50)
    for wrong in (lambda x: x, lambda x: x[..., 0], lambda _: np.arange(5)):
        with pytest.raises(ValueError, match=r"`segments`.*\(20, 24\).*Rec"):
            LIME(network(), segments=wrong)(images)
