"""Sources that several modules of tests read."""

import pytest
from numbered_images import NAMES, dataset

from keras_lficam import data
from keras_lficam.data.digits_in_photos import builder

SMALL = {"train": 40, "validation": 10, "test": 20}


@pytest.fixture(scope="module")
def source():
    return data.from_datasets(
        dataset(), dataset(3), test=dataset(2), class_names=NAMES
    )


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """A folder with a small `digits_in_photos`, prepared by `load` itself."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "NUM_EXAMPLES", SMALL)
        data.load("digits_in_photos", "test", data_dir=folder)
    return folder
