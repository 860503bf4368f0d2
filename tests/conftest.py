import gc
import os

# Of the processes that test beside each other each computes on one thread.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Graphs are many objects that live long; looking through them takes a tenth of
# the time.
gc.set_threshold(200_000, 50, 100)

# Files that take longest, which go first where files are tested side by side;
# pytest-xdist would begin with those of most tests.
LONGEST = ("train_command", "serving", "house", "backbones", "training")


def pytest_configure(config):
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    names = [f"test_{name}" for name in LONGEST]
    items.sort(
        key=lambda item: (
            names.index(item.path.stem)
            if item.path.stem in names
            else len(names)
        )
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def shapes_alone():
    """Models are built without drawing weights, where shapes are asked for."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    keras.backend.clear_session()


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
