"""Data sets that TensorFlow Datasets (TFDS) prepares."""

import functools
import importlib
import os
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_lficam._checks import check_text
from keras_lficam._names import nearest
from keras_lficam.data.sources.base import Source

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Examples are shuffled as they lie on disk, still compressed, so that even
# this many of ImageNet's take about 1 GB.
_SHUFFLE_BUFFER = 10_000
# Sets of so many bytes on disk at most are shuffled as a whole.
_SMALL = 2**30

# The parts whose images have labels that are right, of sets whose parts are
# not known before they are prepared, or are more: ImageNet has test images
# without labels, and STL-10 a part without classes.
_PARTS = {
    "cats_vs_dogs": ("train",),
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "digits_in_photos": ("train", "validation", "test"),
    "digits_in_photos/absent": ("test",),
    "digits_in_photos/shortcut": (
        "train",
        "validation",
        "test",
        "test_shifted",
    ),
    "elpv": ("train", "validation", "test"),
    "imagenet2012": ("train", "validation"),
    "imagenette": ("train", "validation"),
    "oxford_iiit_pet": ("train", "test"),
    "stl10": ("train", "test"),
}

# The feature that is a mask, and its value on the object, or `None` where that
# is any above 0. Oxford's is 1 on the pet, 2 on the background, and 3 on a band
# between them that is "not classified", which so is not known to be pet.
_MASK: tuple[str, int | None] = ("mask", None)
_MASKS: dict[str, tuple[str, int | None]] = {
    "oxford_iiit_pet": ("segmentation_mask", 1)
}


_OURS = ("digits_in_photos", "elpv")


# Features that are boxes, one or several, (top, left, bottom, right) in [0, 1].
_BOXES = ("bbox", "objects")


class TFDSSource(Source):
    """A data set by its TFDS name; it is prepared when it is first needed.

    Args:
        name: TFDS name.
        data_dir: Folder of the prepared data sets; that of TFDS by default.
        argument: What messages call the name.

    Raises:
        ValueError: If TFDS does not know the name, or if the data set is none
            of images with a class.
    """

    _language = (
        ", or a split in the language of TensorFlow Datasets with a bracket "
        'or a plus, such as "train[:80%]"'
    )

    def __init__(
        self,
        name: str,
        data_dir: str | os.PathLike[str] | None,
        argument: str = "name",
    ):
        self.name = name
        self._data_dir = data_dir
        self._builder = _builder(name, data_dir, argument)
        features = self._builder.info.features
        _check_features(features, name, argument)
        self._contents = f"the features {sorted(features)}"
        self.image_shape = (*features["image"].shape[:2], 3)
        self._mask_key, self._on_object = _MASKS.get(self._builder.name, _MASK)
        self._has_boxes = not _is_image(features, self._mask_key)
        if self._has_boxes:
            self._mask_key = _boxes_key(features)
        self.has_masks = bool(self._mask_key)

    @functools.cached_property
    def _on_disk(self) -> "tfds.core.DatasetBuilder":
        try:
            self._builder.download_and_prepare()
        except FileExistsError:
            # A process beside this one, as a second worker, was done first.
            self._builder = _builder(self.name, self._data_dir)
            self._builder.download_and_prepare()
        return self._builder

    # What the base has as attributes are properties here, which mypy refuses:
    # they are known when the data set is prepared.
    @functools.cached_property
    def class_names(self) -> list[str]:  # type: ignore[override]
        return list(self._on_disk.info.features["label"].names)

    @functools.cached_property
    def license(self) -> str | None:  # type: ignore[override]
        told = self._builder.info.redistribution_info
        return (told.license if told else "") or None

    @functools.cached_property
    def _parts(self) -> tuple[str, ...]:
        builder = self._builder
        config = f"{builder.name}/{builder.builder_config_name}"
        parts = _PARTS.get(config, _PARTS.get(builder.name))
        if parts is None:
            # Nothing is known under `tfds.testing.mock_data`.
            parts = tuple(self._on_disk.info.splits) or ("train",)
        return parts

    @functools.cached_property
    def splits(self) -> dict[str, str]:  # type: ignore[override]
        if "train" not in self._parts:
            raise ValueError(
                f"{self.name}: there is no part 'train' to train with, only "
                f"{', '.join(self._parts)}. To fix this: load what there is "
                "with `data.load`, or join parts of your own with "
                "`data.from_datasets`."
            )
        return _splits_of(self._parts)

    def _own(self, split: str) -> str:
        check_text("split", split)
        # Without training images no name but TFDS's own has a meaning.
        is_own = {"[", "+"} & set(split) or "train" not in self._parts
        return split if is_own else super()._own(split)

    @functools.cached_property
    def _shuffled_together(self) -> int:  # type: ignore[override]
        is_small = self._on_disk.info.dataset_size <= _SMALL
        return int(tf.int64.max) if is_small else _SHUFFLE_BUFFER

    def _count(self, split: str) -> int:
        return int(self._examples(split, None).cardinality())

    def _examples(
        self, split: str, shuffle_seed: int | None
    ) -> tf.data.Dataset:
        import tensorflow_datasets as tfds

        builder = self._on_disk
        _check_split(builder.info.splits, self.name, split)
        images = ["image"]
        kept = ["label"]
        if self.has_masks:
            (kept if self._has_boxes else images).append(self._mask_key)
        shuffle = shuffle_seed is not None
        dataset = builder.as_dataset(
            split=split,
            shuffle_files=shuffle,
            read_config=tfds.ReadConfig(
                shuffle_seed=shuffle_seed, try_autocache=False
            ),
            # What else there is, as captions, is not looked at.
            decoders=tfds.decode.PartialDecoding(
                {
                    name: {"bbox": True} if name == "objects" else True
                    for name in [*images, *kept]
                },
                decoders=dict.fromkeys(images, tfds.decode.SkipDecoding()),
            ),
        )
        if shuffle:
            dataset = dataset.shuffle(_SHUFFLE_BUFFER, seed=shuffle_seed)
        return dataset

    def _image(self, example: dict[str, Any]) -> tf.Tensor:
        feature = self._builder.info.features["image"]
        image = feature.decode_example(example["image"])
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        return image

    def _mask(self, example: dict[str, Any]) -> tf.Tensor:
        if self._has_boxes:
            boxes = example[self._mask_key]
            if self._mask_key == "objects":
                boxes = boxes["bbox"]
            size = self.image_shape[:2]
            if None in size:
                size = tf.shape(self._image(example))[:2]
            return _drawn(tf.reshape(boxes, (-1, 4)), size)
        feature = self._builder.info.features[self._mask_key]
        mask = feature.decode_example(example[self._mask_key])
        on_object = (
            mask > 0 if self._on_object is None else (mask == self._on_object)
        )
        return tf.cast(on_object, tf.float32)


def register_ours() -> tuple[str, ...]:
    """Makes our data sets known to TFDS, which importing them does.

    Returns:
        Their names.

    Examples:
        register_ours()
    """
    for name in _OURS:
        importlib.import_module(f"keras_lficam.data.{name}")
    return _OURS


def _splits_of(parts: tuple[str, ...]) -> dict[str, str]:
    """Finds three splits in the parts that a data set has.

    The images of the test split never choose a model. So where one part is
    there besides "train" it is the test, and the validation images are the
    last tenth of those for training. A part that goes by another name here
    has a bracket, so that it is read as TFDS means it.
    """
    if "validation" in parts and "test" in parts:
        three = {part: part for part in ("train", "validation", "test")}
        return three | {part: part for part in parts if part == "test_shifted"}
    if "validation" in parts or "test" in parts:
        test = "test" if "test" in parts else "validation[:100%]"
        return {
            "train": "train[:90%]",
            "validation": "train[90%:]",
            "test": test,
        }
    return {
        "train": "train[:80%]",
        "validation": "train[80%:90%]",
        "test": "train[90%:]",
    }


def _builder(
    name: str, data_dir: str | os.PathLike[str] | None, argument: str = "name"
) -> "tfds.core.DatasetBuilder":
    import tensorflow_datasets as tfds

    register_ours()
    if _can_be_a_name(name):
        try:
            return tfds.builder(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError:
            pass  # TFDS's own message names all its hundreds.
    known = tfds.list_builders(with_community_datasets=False)
    near = nearest(name, known) or ["digits_in_photos"]
    raise ValueError(
        f"Argument `{argument}` must be a folder that exists, or a data set "
        f"that TensorFlow Datasets knows. Received: {argument}={name!r}. To "
        f"fix this: take one of the nearest: {', '.join(near)}. "
        "`tfds.list_builders()` lists all."
    )


def _can_be_a_name(name: str) -> bool:
    """Whether TFDS can read it, which it cannot with `CIFAR-10`."""
    from tensorflow_datasets.core import naming

    try:
        naming.parse_builder_name_kwargs(name)
    except ValueError:
        return False
    return True


def _check_features(features: Any, name: str, argument: str) -> None:
    import tensorflow_datasets as tfds

    found = dict(features) if hasattr(features, "keys") else {}
    if not _is_image(found, "image") or not isinstance(
        found.get("label"), tfds.features.ClassLabel
    ):
        raise ValueError(
            f"Argument `{argument}` must be an image classification data set, "
            "with the features 'image' and 'label' (a class). Received: "
            f"{argument}={name!r} with the features {sorted(found)}. To fix "
            "this: load it with `tfds.load`, map it to (image, label), and "
            "give it to `data.from_datasets`."
        )
    shape, dtype = features["image"].shape, features["image"].tf_dtype
    if len(shape) != 3 or shape[-1] not in (1, 3) or dtype != tf.uint8:
        raise ValueError(
            f"Argument `{argument}` must be a data set of gray or RGB uint8 "
            f"images. Received: {argument}={name!r} with images of shape "
            f"{shape} and type {dtype.name}. To fix this: load it with "
            "`tfds.load`, convert it, and give it to `data.from_datasets`."
        )


def _is_image(features: Any, key: str) -> bool:
    import tensorflow_datasets as tfds

    return key in features and isinstance(features[key], tfds.features.Image)


def _boxes_key(features: Any) -> str:
    """Finds the feature that holds boxes; empty if there is none."""
    import tensorflow_datasets as tfds

    for key in _BOXES:
        if key not in features:
            continue
        found = features[key]
        if key == "objects":  # A sequence of dictionaries.
            inside: Any = getattr(found, "feature", {})
            found = inside["bbox"] if "bbox" in inside else None  # noqa: SIM401
        if isinstance(found, tfds.features.BBoxFeature):
            return key
    return ""


def _drawn(boxes: tf.Tensor, size: Any) -> tf.Tensor:
    """Draws boxes `(n, 4)`: 1 where a pixel's center is in one of them."""
    height, width = tf.unstack(tf.cast(size, "float32"))
    rows = (tf.range(height) + 0.5) / height
    columns = (tf.range(width) + 0.5) / width
    top, left, bottom, right = tf.unstack(boxes[..., None], axis=1)
    in_rows = (rows >= top) & (rows <= bottom)  # (n, H)
    in_columns = (columns >= left) & (columns <= right)
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    mask = tf.cast(tf.reduce_any(inside, axis=0)[..., None], tf.float32)
    # Without a box there is no mask.
    return tf.where(tf.shape(boxes)[0] > 0, mask, float("nan"))


def _check_split(splits: Any, name: str, split: str) -> None:
    if not splits:  # as under `tfds.testing.mock_data`
        return
    try:
        splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Argument `split` must name a split of {name}: "
            f"{', '.join(splits)}, or a part of one such as "
            f'"{next(iter(splits))}[:80%]". Received: split={split!r}.'
        ) from error
