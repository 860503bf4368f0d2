"""What augmentation does to pixels and labels, and that it is pure."""

import functools
import hashlib
import os
import random
import subprocess
import sys

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf

from keras_lficam.data import augmentation

FLIPS = ("flip", "flip_vertical")
IMAGE_NAMES = ("pad_crop", "random_resized_crop", *FLIPS, "rand_augment")
BATCH_NAMES = [("mix_up",), ("cut_mix",), ("mix_up", "cut_mix")]


def seed_at(position, run=0):
    return tf.stack([tf.constant(run, "int64"), tf.cast(position, "int64")])


@functools.cache
def image_function(names, size):
    """The same function again, that it is traced once for several tests."""
    return augmentation.image_function(names, size)


@functools.cache
def over_all(function, shape):
    """Traces it once, which takes as long as hundreds of images."""
    images = tf.TensorSpec((None, *shape), "uint8")
    seeds = tf.TensorSpec((None, 2), "int64")

    @tf.function(input_signature=[images, seeds])
    def results(images, seeds):
        return tf.map_fn(
            lambda pair: function(*pair),
            (images, seeds),
            fn_output_signature=tf.float32,
        )

    return results


def augmented(function, images, positions, run=0):
    """Results `(positions, h, w, 3)` of an image and a seed for each."""
    seeds = np.stack([np.full_like(positions, run), positions], axis=1)
    results = over_all(function, images.shape[1:])
    return results(images[positions % len(images)], seeds).numpy()


def augmented_in_parallel(function, images, positions):
    """The same from a pipeline, as training has it."""
    images = tf.constant(images)

    def one(position):
        image = images[position % len(images)]
        return function(image, seed_at(position))

    dataset = tf.data.Dataset.from_tensor_slices(np.array(positions, "int64"))
    dataset = dataset.map(one, num_parallel_calls=4).batch(len(positions))
    return next(dataset.as_numpy_iterator())


@pytest.fixture
def originals(rng):
    return rng.integers(0, 256, (8, 16, 24, 3), dtype="uint8")


# ------------------------------------------------------------------ the names


def test_names_are_checked_and_sorted_by_what_they_need():
    assert augmentation.check(["flip", "mix_up"]) == ("flip", "mix_up")
    assert augmentation.check(()) == ()
    for name in augmentation.NAMES:
        assert augmentation.check((name,)) == (name,)
        whole = augmentation.needs_whole_image(("flip", name))
        assert whole == (name == "random_resized_crop")
        mixes = augmentation.mixes_labels(("flip", name))
        assert mixes == (name in {"mix_up", "cut_mix"})
        assert (augmentation.batch_function((name,), 10) is None) == (not mixes)


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        ("flip", TypeError, "tuple or list.*augmentation='flip' of type str"),
        (None, TypeError, "of type NoneType"),
        (("flip", "turn"), ValueError, r"pad_crop, .*Received: 'turn'"),
        (("flip", 3), ValueError, "Received: 3 in"),
        ((["flip"],), ValueError, r"Received: \['flip'\] in"),
        (("flip", "mix_up", "flip"), ValueError, "once.*'flip' twice"),
        (("random_resized_crop", "pad_crop"), ValueError, "crop.*only once"),
    ],
)
def test_wrong_names_are_refused(names, error, match):
    with pytest.raises(error, match=match):
        augmentation.check(names)


# --------------------------------------------------------------------- purity


@pytest.mark.parametrize("names", [(name,) for name in IMAGE_NAMES])
def test_an_image_depends_on_input_and_seed_alone(originals, names):
    function = image_function(names, (16, 24))
    positions = np.arange(64)
    expected = augmented(function, originals, positions)
    shuffled = np.random.default_rng(1).permutation(64)
    again = augmented_in_parallel(function, originals, shuffled)
    np.testing.assert_array_equal(again, expected[shuffled])

    tf.random.set_seed(5)
    fresh = augmentation.image_function(names, (16, 24))
    for position in (63, 3):  # Eagerly, in no order.
        image = fresh(tf.constant(originals[position % 8]), seed_at(position))
        np.testing.assert_array_equal(image, expected[position])


@pytest.mark.parametrize("names", [(name,) for name in IMAGE_NAMES])
def test_images_of_a_batch_and_seeds_of_a_run_differ(originals, names):
    function = image_function(names, (16, 24))
    same = augmented(function, originals[:1], np.arange(16))
    assert len({image.tobytes() for image in same}) >= (
        2 if names[0] in FLIPS else 8
    )
    other = augmented(function, originals[:1], np.arange(16), run=1)
    assert not np.array_equal(same, other)


@pytest.mark.parametrize("names", BATCH_NAMES)
def test_a_batch_depends_on_input_and_seed_alone(originals, names):
    function = augmentation.batch_function(names, 8)
    images, labels = originals.astype("float32"), np.arange(8)

    def mixed(positions, function):
        dataset = tf.data.Dataset.from_tensor_slices(positions).map(
            lambda position: function(images, labels, seed_at(position)),
            num_parallel_calls=4,
        )
        return list(dataset.as_numpy_iterator())

    expected = mixed(np.arange(12), function)
    assert len({images.tobytes() for images, _ in expected}) == 12
    shuffled = np.random.default_rng(1).permutation(12)
    for position, result in zip(
        shuffled, mixed(shuffled, function), strict=True
    ):
        for actual, wanted in zip(result, expected[position], strict=True):
            np.testing.assert_array_equal(actual, wanted)

    tf.random.set_seed(5)
    fresh = augmentation.batch_function(names, 8)
    for position in (11, 2):  # Eagerly, in no order.
        result = fresh(images, labels, seed_at(position))
        for actual, wanted in zip(result, expected[position], strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=1e-4)


@pytest.mark.slow
def test_no_global_random_state_is_read_or_moved(originals):
    before = random.getstate(), np.random.get_state()[1].tolist()
    function = augmentation.image_function(["rand_augment"], (16, 24))
    augmentation.batch_function(["mix_up", "cut_mix"], 8)
    first = augmented(function, originals, np.arange(8))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    np.testing.assert_array_equal(
        augmented(function, originals, np.arange(8)), first
    )


@pytest.mark.slow
def test_precision_and_layout_of_the_model_do_not_reach_the_images(originals):
    names = ("rand_augment",)

    def results(function):
        mix = augmentation.batch_function(["mix_up", "cut_mix"], 8)
        images = augmented(function, originals, np.arange(64))
        return images, *mix(originals, np.arange(8), seed_at(1))

    expected = results(image_function(names, (16, 24)))
    keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_image_data_format("channels_first")
    try:
        actual = results(augmentation.image_function(names, (16, 24)))
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format("channels_last")
    for one, other in zip(actual, expected, strict=True):
        assert np.asarray(one).dtype == np.float32
        np.testing.assert_array_equal(one, other)


def digest_of_pixels():
    """What a pipeline makes of images and labels, in short."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 16, 24, 3), dtype="uint8")
    augment = augmentation.image_function(["rand_augment"], (16, 24))
    mix = augmentation.batch_function(["mix_up", "cut_mix"], 8)
    results = tf.data.Dataset.range(64).map(
        lambda position: (
            augment(tf.constant(images)[position % 8], seed_at(position)),
            *mix(images, np.arange(8), seed_at(position)),
        )
    )
    data = [
        array.tobytes() for row in results.as_numpy_iterator() for array in row
    ]
    return hashlib.sha256(b"".join(data)).hexdigest()


@pytest.mark.across_backends
def test_pixels_are_the_same_on_every_backend():
    code = "import test_augmentation as t; print(t.digest_of_pixels())"
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "PYTHONPATH": processes.modules_of(__file__),
            },
        ).stdout.strip()
        for backend in others
    }
    assert digests == {digest_of_pixels()}


# ------------------------------------------------------ what happens to images


def test_without_names_the_pixels_stay(originals):
    images = augmented(
        augmentation.image_function((), (16, 24)), originals, np.arange(8)
    )
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, originals)


@pytest.mark.parametrize(("name", "axis"), [(FLIPS[0], 1), (FLIPS[1], 0)])
def test_a_flip_mirrors_half_of_the_images(originals, name, axis):
    function = augmentation.image_function([name], (16, 24))
    images = augmented(function, originals[:1], np.arange(1000))
    kept = (images == originals[0]).all(axis=(1, 2, 3))
    mirrored = (images == np.flip(originals[0], axis)).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(kept, ~mirrored)
    # Five standard deviations, of sqrt(1000 / 4) = 15.8.
    assert abs(kept.sum() - 500) < 79


def test_two_flips_leave_each_of_four_as_often(originals):
    """What one of them does says nothing about the other."""
    function = augmentation.image_function(FLIPS, (16, 24))
    images = augmented(function, originals[:1], np.arange(1000))
    counts = [
        (images == np.flip(originals[0], axes)).all(axis=(1, 2, 3)).sum()
        for axes in ((), (0,), (1,), (0, 1))
    ]
    assert sum(counts) == 1000
    # Five standard deviations, of sqrt(1000 * 1/4 * 3/4) = 13.7.
    assert max(abs(count - 250) for count in counts) < 69


def test_pad_crop_shifts_by_whole_pixels_each_as_often():
    # 16 x 24 pixels, so up to 2 rows and 3 columns: 5 x 7 = 35 shifts.
    image = np.ones((16, 24, 3), "uint8")
    image[..., 0], image[..., 1] = np.indices((16, 24))
    padded = np.zeros((20, 30, 3))
    padded[2:18, 3:27] = image
    function = augmentation.image_function(["pad_crop"], (16, 24))
    counts = np.zeros((5, 7))
    for found in augmented(function, image[None], np.arange(3500)):
        row, column, _ = found[8, 12]
        top, left = int(row) + 2 - 8, int(column) + 3 - 12
        expected = padded[top : top + 16, left : left + 24]
        np.testing.assert_array_equal(found, expected)
        counts[top, left] += 1
    # Chi-square of 34 degrees of freedom has a mean of 34 and a standard
    # deviation of sqrt(68) = 8.2.
    assert ((counts - 100) ** 2 / 100).sum() < 34 + 5 * 8.2


def bilinear(image, height, width):
    """Enlarges by the centers of pixels, an independent rewrite."""
    for axis, size in enumerate((height, width)):
        length = image.shape[axis]
        place = (np.arange(size) + 0.5) * length / size - 0.5
        place = np.clip(place, 0, length - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, length - 1)
        share = np.expand_dims(place - low, (1 - axis, 2))
        lower, upper = image.take(low, axis), image.take(high, axis)
        image = (1 - share) * lower + share * upper
    return image


def test_random_resized_crop_takes_boxes_of_the_paper():
    image = np.full((30, 40, 3), 200, "uint8")
    image[..., 0], image[..., 1] = 8 * np.indices((30, 1))[0], np.arange(40)
    function = augmentation.image_function(["random_resized_crop"], (64, 80))
    found = augmented(function, image[None], np.arange(400))
    boxes = []
    for result in found:
        # The slope of the coordinates gives the size of the box, and their
        # value between the two middle pixels its center.
        height = round((result[48, 40, 0] - result[16, 40, 0]) / 8 * 2)
        width = round((result[32, 60, 1] - result[32, 20, 1]) * 2)
        middle = result[31:33, 39:41].mean(axis=(0, 1))
        top = round(middle[0] / 8 + 0.5 - height / 2)
        left = round(middle[1] + 0.5 - width / 2)
        crop = image[top : top + height, left : left + width].astype("float64")
        assert crop.shape == (height, width, 3)
        np.testing.assert_allclose(result, bilinear(crop, 64, 80), atol=1e-3)
        boxes.append((top, left, height, width))
    _, _, heights, widths = np.array(boxes).T
    areas, ratios = heights * widths / 1200, widths / heights
    assert 0.08 <= areas.min() < 0.12
    assert 0.9 < areas.max() <= 1
    # Sides are whole pixels: a side of 9 may be half a pixel off.
    assert 0.75 - 0.06 <= ratios.min() < 0.8
    assert 1.25 < ratios.max() <= 4 / 3 + 0.06
    assert len(set(boxes)) > 350


def test_random_resized_crop_averages_where_it_shrinks():
    rows, columns = np.indices((128, 128))
    board = np.repeat((rows + columns)[..., None] % 2 * 255, 3, axis=-1)
    function = augmentation.image_function(["random_resized_crop"], (8, 8))
    found = augmented(function, board[None].astype("uint8"), np.arange(32))
    # A checkerboard turns gray; picking pixels would keep black and white.
    assert np.abs(found - 127.5).max() < 20


def test_random_resized_crop_keeps_an_image_of_which_no_box_can_be_cut(rng):
    # 8 x 200: boxes of up to 8 x 10.7 have 5 % of the area, less than 8 %.
    image = rng.integers(0, 256, (8, 200, 3), dtype="uint8")
    function = augmentation.image_function(["random_resized_crop"], (8, 200))
    found = augmented(function, image[None], np.arange(4))
    np.testing.assert_array_equal(found, np.stack([image] * 4))


def test_a_crop_is_flipped_too(originals):
    names = ["flip", "pad_crop"]
    both = augmented(
        augmentation.image_function(names, (16, 24)), originals, np.arange(64)
    )
    cropped = augmented(
        image_function(("pad_crop",), (16, 24)), originals, np.arange(64)
    )
    kept = (both == cropped).all(axis=(1, 2, 3))
    mirrored = (both == cropped[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ mirrored).all()
    assert kept.any()
    assert mirrored.any()


# --------------------------------------------------------------- rand_augment


def fitted(image, found, base):
    """Factor `f` of `found = clip(base + f * (image - base))`, or None."""
    change = image - base
    inside = (found > 0) & (found < 255) & (np.abs(change) > 1)
    if not inside.any():
        return None
    factor = np.median((found - base)[inside] / change[inside])
    expected = np.clip(base + factor * change, 0, 255)
    return factor if np.allclose(found, expected, atol=0.02) else None


def smooth(image):
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    total = sum(
        padded[row : row + 16, column : column + 16]
        for row in range(3)
        for column in range(3)
    )
    return (total + 4 * image) / 13


def equalized(image):
    channels = []
    for channel in np.moveaxis(image.astype(int), -1, 0):
        ranks = np.bincount(channel.ravel(), minlength=256).cumsum()
        lowest = ranks[channel.min()]
        table = np.round((ranks - lowest) * 255 / (256 - lowest))
        channels.append(table[channel])
    return np.stack(channels, axis=-1)


def transform_of(image, found):
    """Says which transform of colors was done, and how strongly."""
    if np.array_equal(found, image):
        return "none", None
    for bits in (4, 5, 6, 7):
        if np.array_equal(found, image // 2 ** (8 - bits) * 2 ** (8 - bits)):
            return "posterize", bits
    if np.array_equal(found, equalized(image)):
        return "equalize", None
    low = np.minimum(image, 255).min()
    stretched = (image - low) * 255 / (image.max() - low)
    if np.allclose(found, stretched, atol=1e-3):
        return "auto_contrast", None
    inverted = found == 255 - image
    if (inverted | (found == image)).all() and (
        image[inverted].min() > image[~inverted].max(initial=-1)
    ):
        return "solarize", image[inverted].min()
    inside = (found > 0) & (found < 255)
    delta = np.median((found - image)[inside]) if inside.any() else 255.0
    if np.allclose(found, np.clip(image + delta, 0, 255), atol=1e-3):
        return "brightness", delta / 255
    gray = image @ np.array([0.2989, 0.5870, 0.1140])
    bases = {
        "contrast": image.mean(axis=(0, 1)) + np.zeros_like(image),
        "color": gray[..., None] + np.zeros_like(image),
        "sharpness": smooth(image),
    }
    for name, base in bases.items():
        factor = fitted(image, found, base)
        if factor is not None:
            return name, factor
    return "other", None


@pytest.fixture
def one_transform(monkeypatch):
    """Each on its own, so that the strength of one is seen."""
    monkeypatch.setattr(augmentation, "_NUM_TRANSFORMS", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("one_transform")
def test_rand_augment_changes_colors_within_its_strength(rng):
    image = rng.integers(40, 200, (16, 16, 3)).astype("float64")
    image[0, :2] = [[40] * 3, [199] * 3]
    function = augmentation.image_function(["rand_augment"], (16, 16))
    seen = {}
    for found in augmented(
        function, image[None].astype("uint8"), np.arange(1400)
    ):
        name, strength = transform_of(image, found.astype("float64"))
        seen.setdefault(name, []).append(strength)
    # Each of 14 about 100 times, and less than five standard deviations, of
    # sqrt(1400 / 14 * 13 / 14) = 9.6, away from that. The rest moves pixels.
    assert 500 - 5 * 18 < len(seen.pop("other")) < 500 + 5 * 18
    # Solarizing above 199 changes nothing: 22 of its 100.
    assert 122 - 53 < len(seen.pop("none")) < 122 + 53
    assert sorted(seen) == [
        "auto_contrast",
        "brightness",
        "color",
        "contrast",
        "equalize",
        "posterize",
        "sharpness",
        "solarize",
    ]
    for name, strengths in seen.items():
        expected = 78 if name == "solarize" else 100
        assert expected - 48 < len(strengths) < expected + 48, name
    assert set(seen["posterize"]) == {4, 5, 6, 7}
    ranges = {
        "brightness": (-0.4, 0.4),
        "contrast": (0.19, 1.81),
        "color": (0.19, 1.0),
        "sharpness": (0.19, 1.81),
        "solarize": (40, 199),
    }
    for name, (least, most) in ranges.items():
        tenth = (most - least) / 10
        assert least - 1e-3 <= min(seen[name]) < least + tenth, name
        assert most - tenth < max(seen[name]) <= most + 1e-3, name


@pytest.mark.usefixtures("one_transform")
def test_rand_augment_moves_pixels_within_its_strength():
    # Row and column of each pixel; blue tells where corners were filled.
    image = np.full((20, 20, 3), 200, "uint8")
    image[..., 0], image[..., 1] = 8 * np.indices((20, 20))
    grid = np.indices((20, 20)).reshape(2, -1).T
    function = augmentation.image_function(["rand_augment"], (20, 20))
    moves = {"rotate": [], "shear_x": [], "shear_y": [], "x": [], "y": []}
    for found in augmented(function, image[None], np.arange(1400)):
        pixels = found.reshape(-1, 3)
        whole = np.abs(pixels[:, 2] - 200) < 1e-3
        if whole.all() or whole.sum() < 40:
            continue  # Colors were changed, or nothing.
        terms = np.column_stack([grid[whole], np.ones(whole.sum())])
        places, *_ = np.linalg.lstsq(terms, pixels[whole, :2] / 8, rcond=None)
        np.testing.assert_allclose(
            terms @ places, pixels[whole, :2] / 8, atol=1e-2
        )
        (rows, down), (right, columns), (top, left) = places
        matrix = np.array([rows, right, down, columns, top, left])
        angle = np.arctan2(down, rows)
        cos, sin = np.cos(angle), np.sin(angle)
        center = 9.5 * np.array([1 - cos + sin, 1 - cos - sin])
        kinds = {
            "y": (top / 20, (1, 0, 0, 1, top, 0)),
            "x": (left / 20, (1, 0, 0, 1, 0, left)),
            "shear_x": (down, (1, 0, down, 1, 0, 0)),
            "shear_y": (right, (1, right, 0, 1, 0, 0)),
            "rotate": (np.rad2deg(angle), (cos, -sin, sin, cos, *center)),
        }
        errors = {
            name: np.abs(matrix - expected).max()
            for name, (_, expected) in kinds.items()
        }
        if errors["x"] < 2e-3 and errors["y"] < 2e-3:
            continue  # Sharpness changes the edge of the image alone.
        name = min(errors, key=errors.get)
        assert errors[name] < 2e-3
        moves[name].append(kinds[name][0])
        assert pixels[:, 2].min() >= 128 - 1e-3  # Corners are gray.
    most = {"rotate": 27, "shear_x": 0.27, "shear_y": 0.27, "x": 0.4, "y": 0.4}
    for name, values in moves.items():
        # About 100 times, but too little to be seen at times.
        assert 100 - 60 < len(values) < 100 + 48, name
        assert -most[name] - 1e-3 <= min(values) < -0.85 * most[name], name
        assert 0.85 * most[name] < max(values) <= most[name] + 1e-3, name


@pytest.mark.slow
def test_rand_augment_does_two_transforms(rng):
    image = rng.integers(40, 200, (16, 16, 3)).astype("float64")
    image[0, :2] = [[40] * 3, [199] * 3]
    function = image_function(("rand_augment",), (16, 16))
    names = [
        transform_of(image, found.astype("float64"))[0]
        for found in augmented(
            function, image[None].astype("uint8"), np.arange(1400)
        )
    ]
    # Nothing is seen of two draws of identity or of solarizing above 199,
    # (1.22 / 14)^2 of 1400, and of solarizing twice, (1 / 14)^2 at most.
    assert 0 < names.count("none") < 35
    # Color alone: with nothing, or twice, (2 * 1.22 + 1) / 14^2 of 1400 is 25.
    assert 0 < names.count("color") < 50


@pytest.mark.parametrize("level", [0, 100, 255])
def test_rand_augment_stays_in_range_on_flat_images(level):
    image = np.full((1, 16, 16, 3), level, "uint8")
    function = image_function(("rand_augment",), (16, 16))
    found = augmented(function, image, np.arange(300))
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 255


@pytest.mark.parametrize("names", [(name,) for name in IMAGE_NAMES])
def test_images_stay_in_range(names, rng):
    images = 255 * rng.integers(0, 2, (4, 16, 16, 3), dtype="uint8")
    function = image_function(names, (16, 16))
    found = augmented(function, images, np.arange(300))
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 255


# --------------------------------------------------------------------- mixing


def flat_images(number, side=40):
    """Images of one color each, which tell how much of each is in a mix."""
    levels = np.arange(number, dtype="float32")
    return levels[:, None, None, None] * np.ones((1, side, side, 3), "float32")


def test_mix_up_blends_images_and_labels_by_the_same_share():
    # Where row i of the identity is the color of image i, a blend is its label.
    images = np.eye(3, dtype="float32")[:, None, None] * np.ones((4, 6, 1))
    labels = np.array([4, 0, 2])
    mix = tf.function(augmentation.batch_function(["mix_up"], 5))
    own = []
    for position in range(400):
        mixed, shares = map(np.array, mix(images, labels, seed_at(position)))
        assert mixed.dtype == shares.dtype == np.float32
        assert shares.shape == (3, 5)
        np.testing.assert_allclose(
            mixed,
            shares[:, None, None, labels] + np.zeros((4, 6, 1)),
            atol=1e-6,
        )
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
        weights = shares[np.arange(3), labels]
        own.extend(weights[weights < 1])
    # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)): for 0.2
    # it is 0.1786. About 800 images got another one as partner.
    assert np.mean(own) == pytest.approx(0.5, abs=0.06)
    assert np.var(own) == pytest.approx(0.1786, abs=0.015)


def test_cut_mix_labels_are_the_shares_of_pixels():
    images, labels = flat_images(8), np.array([3, 1, 4, 0, 5, 9, 2, 6])
    mix = tf.function(augmentation.batch_function(["cut_mix"], 10))
    cut = []
    for position in range(150):
        mixed, shares = map(np.array, mix(images, labels, seed_at(position)))
        assert mixed.dtype == shares.dtype == np.float32
        for index, (image, share) in enumerate(zip(mixed, shares, strict=True)):
            expected = np.zeros(10)
            for level in range(8):
                count = (image == level).all(axis=-1).sum()
                expected[labels[level]] += count / 1600
            assert expected.sum() == pytest.approx(1)
            np.testing.assert_allclose(share, expected, atol=1e-6)
            other = image[..., 0] != index
            if other.any():
                rows, columns = other.any(axis=1), other.any(axis=0)
                np.testing.assert_array_equal(
                    other, rows[:, None] & columns[None]
                )
                assert np.diff(np.flatnonzero(rows)).max(initial=1) == 1
                assert np.diff(np.flatnonzero(columns)).max(initial=1) == 1
                cut.append(other.mean())
    # Beta(1, 1) is uniform, with a mean of 1/2 and a variance of 1/12.
    assert np.mean(cut) == pytest.approx(0.5, abs=0.04)
    assert np.var(cut) == pytest.approx(1 / 12, abs=0.012)


def test_keras_still_takes_the_area_of_a_box_that_ends_within_pixels():
    """When this fails, `_mix` need not count the pixels any more."""
    layer = keras.layers.CutMix(factor=(1, 1), seed=0)
    images = flat_images(8)
    mixed = layer({"images": images, "labels": np.eye(8, dtype="float32")})
    kept = (np.array(mixed["images"]) == images).mean(axis=(1, 2, 3))
    label = np.diag(np.array(mixed["labels"]))
    assert 0.005 < np.abs(kept - label).max() < 0.2


def test_with_both_each_batch_is_mixed_in_one_of_two_ways():
    images, labels = flat_images(8), np.arange(8)
    mix = tf.function(augmentation.batch_function(["cut_mix", "mix_up"], 8))
    blended = 0
    for position in range(200):
        mixed, shares = map(np.array, mix(images, labels, seed_at(position)))
        np.testing.assert_allclose(
            mixed.mean(axis=(1, 2, 3)), shares @ np.arange(8.0), atol=1e-4
        )
        flat = np.ptp(mixed, axis=(1, 2, 3)) < 1e-4
        cut = np.isin(mixed, np.arange(8)).all(axis=(1, 2, 3))
        assert flat.all() or cut.all()
        blended += flat.all()
    # Five standard deviations, of sqrt(200 / 4) = 7.1.
    assert abs(blended - 100) < 36


@pytest.mark.parametrize("names", BATCH_NAMES)
def test_a_last_batch_may_be_smaller(names):
    mix = augmentation.batch_function(names, 9)
    dataset = tf.data.Dataset.from_tensor_slices((flat_images(9), range(9)))
    dataset = dataset.batch(4).map(
        lambda images, labels: mix(images, labels, seed_at(3))
    )
    assert dataset.element_spec[0].shape.as_list() == [None, 40, 40, 3]
    assert dataset.element_spec[1].shape.as_list() == [None, 9]
    *_, (images, shares) = dataset.as_numpy_iterator()
    np.testing.assert_allclose(images, flat_images(9)[8:], atol=1e-5)
    np.testing.assert_allclose(shares, np.eye(9)[8:], atol=1e-6)


@pytest.mark.slow
def test_all_together_take_images_of_no_known_shape(rng):
    names = augmentation.check(["random_resized_crop", "flip", "rand_augment"])
    augment = augmentation.image_function(names, (12, 10))
    originals = [
        rng.integers(0, 256, (*size, 3), "uint8")
        for size in [(30, 20), (9, 41)]
    ]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(originals), output_signature=tf.TensorSpec(None, "uint8")
    ).map(lambda image: augment(image, tf.constant([0, 7], "int64")))
    found = list(dataset.as_numpy_iterator())
    assert [image.shape for image in found] == [(12, 10, 3)] * 2
    assert all(image.std() > 5 for image in found)
