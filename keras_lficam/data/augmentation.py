"""Random changes of training images, each by its name.

Every function made here is pure: the same input and seed give the same
pixels, whatever was called before and in whatever order, so that a run that
was interrupted resumes with the images that it would have seen.

The transforms are those of Keras and TensorFlow. Keras's layers count their
calls and are made pure by the seed that they are handed; where a layer draws
once for a whole batch, `tf.image` draws once an image. KerasCV's layers draw
from a `tf.random.Generator` that cannot be handed over.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

# In the order in which they are applied.
NAMES = (
    "pad_crop",
    "random_resized_crop",
    "flip",
    "flip_vertical",
    "rand_augment",
    "mix_up",
    "cut_mix",
)

# Of `"rand_augment"`, each image.
_NUM_TRANSFORMS = 2
# Those of them that move pixels; the others change colors.
_MOVING = (
    keras.layers.RandomRotation,
    keras.layers.RandomShear,
    keras.layers.RandomTranslation,
)


def check(names: Sequence[str]) -> tuple[str, ...]:
    """Checks which augmentations were asked for.

    Args:
        names: Tuple or list of `NAMES`, in any order.

    Returns:
        The names.

    Raises:
        ValueError: If a name is unknown or occurs twice, or if two exclude
            each other.
        TypeError: If `names` is no tuple or list.

    Examples:

        check(["pad_crop", "flip", "mix_up"])
    """
    if not isinstance(names, (tuple, list)):
        raise TypeError(
            "Argument `augmentation` must be a tuple or list of names such as "
            f"('pad_crop', 'flip'). Received: augmentation={names!r:.80} of "
            f"type {type(names).__name__}."
        )
    for name in names:
        if not isinstance(name, str) or name not in NAMES:
            raise ValueError(
                "Argument `augmentation` must hold names of "
                f"{', '.join(NAMES)}. "
                f"Received: {name!r} in augmentation={names!r}."
            )
        if names.count(name) > 1:
            raise ValueError(
                "Argument `augmentation` must hold a name only once. Received: "
                f"{name!r} twice or more in augmentation={names!r}."
            )
    if {"pad_crop", "random_resized_crop"} <= {*names}:
        raise ValueError(
            "Argument `augmentation` must crop an image only once. Received: "
            f"augmentation={names!r}. To fix this: keep 'pad_crop' for small "
            "images or 'random_resized_crop' for large ones."
        )
    return tuple(names)


def needs_whole_image(names: Sequence[str]) -> bool:
    """Says whether the images must come before they are resized.

    Args:
        names: Names that passed `check`.

    Returns:
        Whether one of them brings images of any size to size itself.
    """
    return "random_resized_crop" in names


def mixes_labels(names: Sequence[str]) -> bool:
    """Says whether labels become soft labels.

    Args:
        names: Names that passed `check`.

    Returns:
        Whether one of them mixes images.
    """
    return "mix_up" in names or "cut_mix" in names


def image_function(
    names: Sequence[str], image_size: tuple[int, int]
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes the augmentation of one image.

    - `"pad_crop"`: Shifts by whole pixels, up to an eighth of each side,
      and fills with black.
    - `"random_resized_crop"`: Crops 8 to 100 % of the area, 3/4 to 4/3 as
      wide as high, and resizes it. Takes the whole image where no crop fits.
    - `"flip"`: Swaps left and right of every second image.
    - `"flip_vertical"`: Swaps top and bottom of every second image, for images
      without an upright side, as those of microscopes, satellites and scanners.
    - `"rand_augment"`: Does 2 of the 14 transforms of the paper (the same
      one twice, perhaps), each up to its strength at magnitude 9 of 10, which
      is the paper's for ResNet-50, in both directions. Empty corners are
      gray. Brightness is added, by up to 40 %, and colors only fade, for so
      do Keras's layers.

    Args:
        names: Names that passed `check`; those of batches are passed over.
        image_size: `(height, width)` of the result.

    Returns:
        Function of an image `(H, W, 3)` in 0 to 255, of `image_size` already
        unless `needs_whole_image(names)`, and a seed, int64 `(2,)`. Gives a
        float32 image `(height, width, 3)` in 0 to 255.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937;
        Cubuk et al., 2020, https://arxiv.org/abs/1909.13719.

    Examples:

        augment = image_function(["pad_crop", "flip"], (32, 32))
        changed = augment(image, tf.constant([0, 7], "int64"))
    """
    return _in_turn(names, image_size, of_masks=False)


def mask_function(
    names: Sequence[str], image_size: tuple[int, int]
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes the augmentation that moves a mask with its image.

    Args:
        names: Names that passed `check`; those of batches are passed over.
        image_size: `(height, width)` of the result.

    Returns:
        Function of a mask `(H, W, 1)` in 0 to 1, as large as its image, and
        the seed that the image is changed with. Gives a float32 mask
        `(height, width, 1)`: moved, mirrored, turned, cropped and resized
        bilinearly as the image is, with 0 where the image is filled; colors
        change nothing.

    Examples:

        move = mask_function(["pad_crop", "flip"], (32, 32))
        moved = move(image[..., :1] / 255, tf.constant([0, 7], "int64"))
    """
    in_turn = _in_turn(names, image_size, of_masks=True)

    def move(mask: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # Some of what is drawn depends on the shape, as of an image.
        return in_turn(tf.tile(mask, (1, 1, 3)), seed)[..., :1]

    return move


def _in_turn(
    names: Sequence[str], image_size: tuple[int, int], *, of_masks: bool
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    makers: dict[str, Callable[[], Any]] = {
        "pad_crop": lambda: functools.partial(_pad_crop, image_size),
        "random_resized_crop": lambda: functools.partial(
            _random_resized_crop, image_size
        ),
        "flip": lambda: tf.image.stateless_random_flip_left_right,
        "flip_vertical": lambda: tf.image.stateless_random_flip_up_down,
        "rand_augment": lambda: _rand_augment(of_masks=of_masks),
    }
    steps = {name: make() for name, make in makers.items() if name in names}

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        for name, step in steps.items():
            # What was decoded or cropped has no known channels, and layers
            # count on them.
            image = tf.ensure_shape(image, (None, None, 3))
            image = step(image, seed=_derived(seed, NAMES.index(name)))
        return tf.ensure_shape(tf.cast(image, "float32"), (*image_size, 3))

    return augment


def batch_function(
    names: Sequence[str], num_classes: int
) -> (
    Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    | None
):
    """Makes the augmentation that mixes the images of a batch.

    - `"mix_up"`: Blends each image with another; the shares are drawn from
      Beta(0.2, 0.2).
    - `"cut_mix"`: Puts a box of another image into each; its share of the
      area is drawn from Beta(1, 1), which is uniform.

    With both, each batch is mixed in one of the two ways at random.

    Args:
        names: Names that passed `check`; those of images are passed over.
        num_classes: Number of classes.

    Returns:
        None, if no name mixes images. Otherwise a function of images
        `(batch, height, width, 3)`, integer labels `(batch,)` or float32 ones
        `(batch, num_classes)`, and a seed,
        int64 `(2,)`. Gives float32 images and labels `(batch, num_classes)`,
        the share that each class has of an image.

    Reference:
        Zhang et al., 2018, https://arxiv.org/abs/1710.09412;
        Yun et al., 2019, https://arxiv.org/abs/1905.04899.

    Examples:

        mix = batch_function(["mix_up", "cut_mix"], num_classes=10)
        mixed, shares = mix(images, labels, tf.constant([0, 7], "int64"))
    """
    makers: dict[str, Callable[[], Any]] = {
        "mix_up": lambda: _layer(keras.layers.MixUp, alpha=0.2, seed=0),
        # A single number would be the most of an alpha drawn for each batch.
        "cut_mix": lambda: _layer(keras.layers.CutMix, factor=(1, 1), seed=0),
    }
    layers = [make() for name, make in makers.items() if name in names]
    if not layers:
        return None

    def mix(
        images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.cast(images, "float32")
        if len(labels.shape) == 1:  # Else each image has several already.
            labels = tf.one_hot(labels, num_classes)
        mixed, shares = tf.switch_case(
            _draw(len(layers), _derived(seed, 0)),
            [
                functools.partial(_mix, layer, images, labels, seed)
                for layer in layers
            ],
        )
        return mixed, shares

    return mix


def _pad_crop(
    image_size: tuple[int, int], image: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    height, width = image_size
    rows, columns = height // 8, width // 8
    padded = tf.pad(image, [(rows, rows), (columns, columns), (0, 0)])
    return tf.image.stateless_random_crop(padded, (height, width, 3), seed)


def _random_resized_crop(
    image_size: tuple[int, int], image: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    full = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        full,
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
    )
    crop = tf.slice(image, begin, size)
    return _in_range(
        tf.image.resize(crop, image_size, "bilinear", antialias=True)
    )


def _rand_augment(
    *, of_masks: bool
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    # `keras.layers.RandAugment` does all its transforms and throws away most,
    # draws the same two for a whole batch, and turns by up to 180 degrees.
    layers = keras.layers
    fill = 0.0 if of_masks else 128.0
    corners = {"fill_mode": "constant", "fill_value": fill}
    transforms = [
        _layer(layers.AutoContrast),
        _layer(layers.Equalization),
        _layer(layers.RandomRotation, factor=27 / 360, seed=0, **corners),
        _layer(layers.RandomShear, x_factor=0.27, seed=0, **corners),
        _layer(layers.RandomShear, y_factor=0.27, seed=0, **corners),
        _layer(
            layers.RandomTranslation,
            height_factor=0.0,
            width_factor=0.4,
            seed=0,
            **corners,
        ),
        _layer(
            layers.RandomTranslation,
            height_factor=0.4,
            width_factor=0.0,
            seed=0,
            **corners,
        ),
        # A single number would change one way only in some of these.
        _layer(layers.RandomBrightness, factor=(-0.4, 0.4), seed=0),
        _layer(layers.RandomContrast, factor=(0.81, 0.81), seed=0),
        _layer(layers.RandomColorDegeneration, factor=(0.0, 0.81), seed=0),
        _layer(layers.RandomSharpness, factor=(0.095, 0.905), seed=0),
        _layer(layers.RandomPosterization, factor=(4, 8), seed=0),
        _layer(layers.Solarization, threshold_factor=(0.0, 1.0), seed=0),
    ]

    def transform(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.switch_case(
            _draw(len(transforms) + 1, _derived(seed, 0)),
            [
                functools.partial(_transform, layer, images, seed)
                if not of_masks or isinstance(layer, _MOVING)
                else lambda: images
                for layer in transforms
            ],
            default=lambda: images,
        )

    compiled = tf.function(transform)

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        images = tf.cast(image, "float32")[None]
        for number in range(_NUM_TRANSFORMS):
            images = compiled(images, _derived(seed, number))
        return _in_range(images[0])

    return augment


def _transform(layer: Any, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    drawn = layer.get_random_transformation(images, seed=_Seeds(seed))
    return layer.transform_images(images, drawn)


def _mix(
    layer: Any, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    drawn = layer.get_random_transformation(images, seed=_Seeds(seed))
    if "batch_masks" in drawn:
        # Keras takes the area of a box that ends within pixels; count those
        # that are really taken from the other image.
        taken = tf.cast(drawn["batch_masks"], "float32")
        drawn["mix_weight"] = 1.0 - tf.reduce_mean(taken, axis=(1, 2, 3))
    return (
        layer.transform_images(images, drawn),
        layer.transform_labels(labels, drawn),
    )


def _layer(kind: Any, **options: Any) -> Any:
    layer = kind(dtype="float32", data_format="channels_last", **options)
    layer.backend.set_backend("tensorflow")  # `tf.data` runs on no other.
    return layer


def _in_range(image: tf.Tensor) -> tf.Tensor:
    # Weights of an interpolation may add up to a little more than 1.
    return tf.clip_by_value(image, 0.0, 255.0)


def _draw(choices: int, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform((), seed, 0, choices, "int32")


def _derived(seed: tf.Tensor, number: int) -> tf.Tensor:
    """A seed of its own for each use of one, far from those of other images."""
    return tf.random.fold_in(seed, tf.constant(number, "int64"))


class _Seeds(keras.random.SeedGenerator):
    """Seeds for a Keras layer that follow from one seed.

    Keras's own generator counts in a variable, which would make an image
    depend on those before it.
    """

    def __init__(self, seed: tf.Tensor):
        # The variable is made in Keras's `__init__`, which is left out.
        self.seed = seed
        self.count = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        del ordered  # Each seed is drawn, not counted up.
        self.count += 1
        return _derived(self.seed, self.count)
