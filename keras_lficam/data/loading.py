"""Finds images with labels by the name of a data set, folder or CSV file."""

import os
import pathlib

import tensorflow as tf

from keras_lficam._checks import check_text, path_of
from keras_lficam.data._listing import holds_images
from keras_lficam.data.image_files import check_bits
from keras_lficam.data.sources.base import Source
from keras_lficam.data.sources.csv_file import CSVSource
from keras_lficam.data.sources.folder import FolderSource
from keras_lficam.data.sources.tfds import TFDSSource, register_ours


def source(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    bits: int | None = None,
    masks: str | os.PathLike[str] | None = None,
) -> Source:
    """Finds images with labels, split for training, validation and test.

    A folder holds a folder for each class, with the images in it at any
    depth; or such a folder for each of `train`, `validation` (or `val`,
    `valid`) and `test`, in any case and as a word of a longer name, such as
    `Training`, `seg_test` or `train_images`. Without folders for the splits a
    tenth of each class is for validation and a tenth for the test, chosen by
    a hash of the path: the same on every machine, and more images do not move
    others, but that a class of 3 or more always has one for validation. With
    `train` alone a tenth of it is for validation; a test that is not there is
    not made.

    A CSV file, UTF-8, names the columns `image` and `label` in its first line,
    and may name `split` and `mask`; others are not looked at. Paths begin at
    its folder. Several labels of an image stand in one cell, `cat|dog`: with a
    `|` anywhere every image can have several or none, and labels are 0 or 1
    for each class. The split is train, validation or test, in every line or in
    none; what is not given is set aside as of a folder, of an image with
    several labels by the rarest. A mask is an image of the same size, not 0 on
    the object.

    Masks of the objects, of all images or some, are looked for in a folder
    `masks` in that of the images, if the folders in it have the names of those
    beside it: `masks/cat/1.png` is the mask of `cat/1.jpg`. A class can be
    called `masks`, too; then its folder holds images.

    Every file is read that Pillow reads, also behind a link, but for hidden
    ones. Each is read once; images that cannot be are named in the log and
    left out, and files that are none are counted there. Images of 16 bits
    become 8 as `read_image` says.

    A data set of TensorFlow Datasets (TFDS) has the splits "train",
    "validation" and "test" if these are its own. What is missing comes from
    the end of its training images, a tenth for each; where it has just one
    split besides, that is the test, for the test never chooses a model.

    Args:
        name: Folder of images; CSV file, whose name ends in `.csv`; or TFDS
            name such as `"cifar10"` or `"digits_in_photos"`. A folder of that
            name comes first.
        data_dir: Folder of the prepared data sets; that of TFDS by default.
        bits: Bits that images of 16 bits use, 8 to 16, where their files do
            not say it; by default those of the highest number in all files.
        masks: Masks of the objects of a folder or CSV file that lie
            elsewhere: a folder of mask images, or of XML files of Pascal VOC;
            or a JSON file of COCO, whose boxes count. They belong to the
            images with the same path below that folder, whatever the ending,
            or the same name, where it is that of one image alone. Images
            without a mask or box have none.

    Returns:
        The source. What TFDS has not on disk yet is downloaded and prepared
        when it is first needed.

    Raises:
        ValueError: If there is no such data set, folder or file, or if it
            cannot be used to train a classifier.
        TypeError: If `name` is neither a string nor a path.

    Examples:

        cifar = source("cifar10")
        assert cifar.splits["validation"] == "train[90%:]"
    """
    return found_source(name, data_dir=data_dir, bits=bits, masks=masks)


def found_source(
    name: str | os.PathLike[str],
    *,
    argument: str = "name",
    data_dir: str | os.PathLike[str] | None = None,
    bits: int | None = None,
    masks: str | os.PathLike[str] | None = None,
) -> Source:
    """Does what `source` says, for another function's argument.

    Args:
        name: As for `source`.
        argument: What messages call it.
        data_dir: As for `source`.
        bits: As for `source`.
        masks: As for `source`.

    Returns:
        The source.

    Raises:
        ValueError: As for `source`.
        TypeError: As for `source`.
    """
    if data_dir is not None:
        path_of("data_dir", data_dir)
    if masks is not None:
        path_of("masks", masks)
    check_bits(bits)
    if _is_csv_file(name):
        return CSVSource(path_of(argument, name), bits=bits, masks=masks)
    if _is_folder(name):
        return FolderSource(path_of(argument, name), bits=bits, masks=masks)
    check_text(argument, name)
    if masks is not None:
        raise ValueError(
            "Argument `masks` must be None but for a folder or a CSV file. "
            f"Received: masks={os.fspath(masks)!r} for {argument}={name!r}. To "
            "fix this: leave it out; masks and boxes that a data set of "
            "TensorFlow Datasets has are found."
        )
    if bits is not None:
        raise ValueError(
            "Argument `bits` must be None but for a folder or a CSV file, "
            f"whose images may have 16 bits. Received: bits={bits!r} for "
            f"{argument}={name!r}. To fix this: leave it out."
        )
    return TFDSSource(str(name), data_dir, argument)


def load(
    name: str | os.PathLike[str],
    split: str,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    with_masks: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    resizing: str = "stretch",
    cache: bool = False,
    channels: int = 3,
) -> tf.data.Dataset:
    """Loads a data set for training, evaluation or scoring heat maps.

    The same as `source(name).batches(split)`. What is not yet on disk is
    downloaded and prepared by TFDS first.

    Args:
        name: TFDS name such as `"cifar10"`, or `"digits_in_photos"`, or a
            folder of images or a CSV file, as for `source`.
        split: As for `Source.batches`.
        image_size: As for `Source.batches`.
        batch_size: As for `Source.batches`.
        shuffle: As for `Source.batches`.
        seed: As for `Source.batches`.
        with_masks: As for `Source.batches`.
        data_dir: Folder of the prepared data sets; that of TFDS by default.
        resizing: As for `Source.batches`.
        cache: As for `Source.batches`.
        channels: As for `Source.batches`.

    Returns:
        Batches as those of `Source.batches`.

    Raises:
        ValueError: If an argument has an impossible value, if TFDS does not
            know `name` or `split`, or if the data set lacks what was asked.
        TypeError: If an argument is of the wrong type.

    Examples:

        batches = load("cifar10", "test", image_size=(64, 64), batch_size=8)
        images, labels = next(iter(batches))
    """
    return source(name, data_dir=data_dir).batches(
        split,
        image_size=image_size,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        with_masks=with_masks,
        resizing=resizing,
        cache=cache,
        channels=channels,
    )


def _is_csv_file(name: object) -> bool:
    """Says whether a name is that of a CSV file, by its ending."""
    return (
        isinstance(name, (str, os.PathLike))
        and pathlib.PurePath(os.fsdecode(name)).suffix.lower() == ".csv"
        and not os.path.isdir(name)
    )


def _is_folder(name: str | os.PathLike[str]) -> bool:
    if isinstance(name, os.PathLike):
        return True
    if not isinstance(name, str) or not name:
        return False
    if pathlib.Path(name).is_dir():
        # TFDS keeps its files in a folder of a data set's name.
        return not _is_known(name) or holds_images(name)
    if os.sep not in name and (os.altsep or os.sep) not in name:
        return False
    return not _is_known(name)


def _is_known(name: str) -> bool:
    """Says whether TensorFlow Datasets knows a name."""
    import tensorflow_datasets as tfds

    register_ours()
    # TFDS has names such as "imagenette/160px" and "huggingface:a/b".
    builder = name.split("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    return ":" in builder or builder in known
