"""Reads image classification data sets from TensorFlow Datasets (TFDS)."""

import difflib
import importlib
import numbers
import os
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Examples are shuffled as they lie on disk, still compressed, so that even
# this many of ImageNet's take about 1 GB.
_SHUFFLE_BUFFER = 10_000


def load(
    name: str,
    split: str,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    with_masks: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
) -> tf.data.Dataset:
    """Loads a data set for training, evaluation or scoring heat maps.

    What is not yet on disk is downloaded and prepared by TFDS first.

    Args:
        name: TFDS name such as `"cifar10"`, or `"digits_in_photos"`.
        split: TFDS split such as `"train"`, `"train[:80%]"` or
            `"train+test"`.
        image_size: `(height, width)` to resize to. `None` keeps the size,
            which must then be one for all images.
        batch_size: Images per batch, at least 1; the last may hold fewer.
        shuffle: Whether each pass is in a new order. Otherwise every pass is
            in the same order.
        seed: Decides the orders, if `shuffle`.
        with_masks: Whether to add the mask of the object.
        data_dir: Folder of the prepared data sets; that of TFDS by default.

    Returns:
        Batches of `(image, label)` or `(image, label, mask)`. Images are
        RGB `(batch, height, width, 3)` in 0 to 255: uint8, or float32 if
        they were resized. Labels are int64 `(batch,)`, masks float32
        `(batch, height, width, 1)`, 1 on the object and 0 elsewhere.

    Raises:
        ValueError: If an argument has an impossible value, if TFDS does not
            know `name` or `split`, or if the data set lacks what was asked.
        TypeError: If an argument is of the wrong type.

    Examples:

        batches = load("cifar10", "test", image_size=(64, 64), batch_size=8)
        images, labels = next(iter(batches))
    """
    import tensorflow_datasets as tfds

    _check_text("name", name, '"cifar10"')
    _check_text("split", split, '"train"')
    _check_batch_size(batch_size)
    _check_image_size(image_size)
    builder = _builder(name, data_dir)
    _check_features(builder.info.features, name, image_size, with_masks)
    builder.download_and_prepare()
    _check_split(builder.info.splits, name, split)

    pictures = {
        key: feature
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=shuffle,
        read_config=tfds.ReadConfig(shuffle_seed=seed, try_autocache=False),
        decoders={key: tfds.decode.SkipDecoding() for key in pictures},
    )
    if shuffle:
        dataset = dataset.shuffle(_SHUFFLE_BUFFER, seed=seed)

    def decode(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        image = pictures["image"].decode_example(example["image"])
        image = _as_image(image, image_size)
        if not with_masks:
            return image, example["label"]
        mask = pictures["mask"].decode_example(example["mask"])
        return image, example["label"], _as_mask(mask, image_size)

    dataset = dataset.map(
        decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def class_names(
    name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> list[str]:
    """Names the classes of a data set, in the order of its labels.

    What is not yet on disk is downloaded and prepared first, since some data
    sets know their names only then.

    Args:
        name: TFDS name, as for `load`.
        data_dir: Folder of the prepared data sets; that of TFDS by default.

    Returns:
        One name per class.

    Raises:
        ValueError: If TFDS does not know `name`, or if it is no image
            classification data set.
        TypeError: If `name` is no string.
    """
    _check_text("name", name, '"cifar10"')
    builder = _builder(name, data_dir)
    _check_label(builder.info.features, name)
    builder.download_and_prepare()
    return list(builder.info.features["label"].names)


def _as_image(
    image: tf.Tensor, image_size: tuple[int, int] | None
) -> tf.Tensor:
    if image.shape[-1] == 1:
        image = tf.image.grayscale_to_rgb(image)
    if image_size is None:
        return image
    return tf.image.resize(image, image_size, "bilinear", antialias=True)


def _as_mask(mask: tf.Tensor, image_size: tuple[int, int] | None) -> tf.Tensor:
    mask = tf.cast(mask > 0, tf.float32)
    if image_size is None:
        return mask
    return tf.image.resize(mask, image_size, "nearest")


def _builder(
    name: str, data_dir: str | os.PathLike[str] | None
) -> "tfds.core.DatasetBuilder":
    import tensorflow_datasets as tfds

    # Importing our builder registers it with TFDS.
    importlib.import_module("keras_lficam.data.digits_in_photos")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, known) or ["digits_in_photos"]
        raise ValueError(
            "`name` must be a data set that TensorFlow Datasets knows. "
            f"Received: name={name!r}. The nearest: {', '.join(near)}. "
            "`tfds.list_builders()` lists all."
        ) from None  # TFDS's own message names all its hundreds


def _check_text(argument: str, value: Any, example: str) -> None:
    if not isinstance(value, str):
        raise TypeError(
            f"`{argument}` must be a string such as {example}. Received: "
            f"{argument}={value!r} of type {type(value).__name__}."
        )


def _check_batch_size(batch_size: Any) -> None:
    if not isinstance(batch_size, numbers.Integral):
        raise TypeError(
            "`batch_size` must be an integer such as 32. Received: "
            f"batch_size={batch_size!r} of type {type(batch_size).__name__}."
        )
    if batch_size < 1:
        raise ValueError(
            "`batch_size` must be at least 1, to have an image in a batch. "
            f"Received: batch_size={batch_size}."
        )


def _check_image_size(image_size: Any) -> None:
    if image_size is None:
        return
    if (
        not isinstance(image_size, (tuple, list))
        or len(image_size) != 2
        or not all(isinstance(side, numbers.Integral) for side in image_size)
        or min(image_size) < 1
    ):
        raise ValueError(
            "`image_size` must be a pair of positive integers "
            "(height, width), such as (224, 224), or None to keep the size. "
            f"Received: image_size={image_size!r}."
        )


def _check_features(
    features: Any,
    name: str,
    image_size: tuple[int, int] | None,
    with_masks: bool,
) -> None:
    _check_label(features, name)
    if with_masks and not _is_image(features, "mask"):
        raise ValueError(
            "`with_masks=True` needs a data set with an image named 'mask', "
            f"as digits_in_photos has. Received: name={name!r} with the "
            f"features {sorted(features)}. Drop `with_masks` to load it."
        )
    shape, dtype = features["image"].shape, features["image"].tf_dtype
    if len(shape) != 3 or shape[-1] not in (1, 3) or dtype != tf.uint8:
        raise ValueError(
            "`name` must be a data set of gray or RGB uint8 images. "
            f"Received: name={name!r} with images of shape {shape} and type "
            f"{dtype.name}. Load it with `tfds.load` and convert it."
        )
    if image_size is None and None in shape:
        raise ValueError(
            "`image_size` must be given for a data set with images of "
            "different sizes, which cannot share a batch. Received: "
            f"image_size=None for name={name!r}. Pass, for example, "
            "image_size=(224, 224)."
        )


def _is_image(features: Any, key: str) -> bool:
    import tensorflow_datasets as tfds

    return key in features and isinstance(features[key], tfds.features.Image)


def _check_label(features: Any, name: str) -> None:
    import tensorflow_datasets as tfds

    found = dict(features) if hasattr(features, "keys") else {}
    if not _is_image(found, "image") or not isinstance(
        found.get("label"), tfds.features.ClassLabel
    ):
        raise ValueError(
            "`name` must be an image classification data set, with the "
            "features 'image' and 'label' (a class). Received: "
            f"name={name!r} with the features {sorted(found)}. Load it with "
            "`tfds.load` and map it to (image, label)."
        )


def _check_split(splits: Any, name: str, split: str) -> None:
    if not splits:  # as under `tfds.testing.mock_data`
        return
    try:
        splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must name a split of {name}: {', '.join(splits)}, or a "
            f'part of one such as "{next(iter(splits))}[:80%]". '
            f"Received: split={split!r}."
        ) from error
