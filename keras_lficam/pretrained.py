"""Trained models that come with the package."""

import pathlib

__all__ = ["digits_in_photos"]


def digits_in_photos() -> pathlib.Path:
    """Finds a classifier with LFI-CAM of the data set `digits_in_photos`.

    It is what `keras-lficam explain` takes when no model is named. It takes
    images `(B, 64, 64, 3)` from 0 to 255 and tells the digits 0 to 9.

    Returns:
        The `.keras` file. Names of the classes are in `labels.txt` beside it,
        one a line.

    Raises:
        FileNotFoundError: If it was left out when the package was installed.

    Examples:
        path = keras_lficam.pretrained.digits_in_photos()
        model = keras.models.load_model(path)
    """
    package = pathlib.Path(__file__).parent
    # In an installed package, and in a clone of the repository.
    for folder in (
        package / "shipped",
        package.parent / "saved_models" / "digits_in_photos",
    ):
        if (folder / "model.keras").is_file():
            return folder / "model.keras"
    raise FileNotFoundError(
        "the shipped model is not there; install the package once more, or "
        "give a model's file"
    )
