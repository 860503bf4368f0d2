import gc
import os
import shutil
import sys
import types

# TensorFlow turns oneDNN on by itself on some processors only. The tests do
# not depend on that choice: it is on, unless somebody asks for the opposite.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Of the processes that test beside each other each computes on one thread.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }

import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Graphs are many objects that live long; looking through them takes a tenth of
# the time.
gc.set_threshold(200_000, 50, 100)

# Files that take longest, which go first where files are tested side by side;
# pytest-xdist would begin with those of most tests.
LONGEST = (
    "serving",
    "training",
    "explainers",
    "house",
    "backbones",
    "hubs",
    "gradient",
    "attach",
    "augmentation",
    "families",
    "geometry",
    "classifier",
    "cli",
    "layers",
)


# Warnings are errors on TensorFlow. What other libraries warn of, and Keras on
# JAX and PyTorch, is shown; but for the one that is ignored everywhere.
SHOWN = pytest.mark.filterwarnings(
    "default", "ignore:__array__ implementation doesn't accept a copy"
)


def on_tensorflow():
    """Whether Keras is. The import takes seconds, and not all tests need it.

    Nor does the process that hands out tests, which reads this file, too.
    """
    import keras

    return keras.backend.backend() == "tensorflow"


def pytest_configure(config):
    config.option.loadscopereorder = False


def pytest_collection_finish():
    """What is imported by now is never thrown away, so never looked through.

    `keras.backend.clear_session`, after each test that builds large models,
    collects garbage: half a second, of which modules take nearly all.
    """
    gc.freeze()


def pytest_collection_modifyitems(items):
    elsewhere = "keras" in sys.modules and not on_tensorflow()
    for item in items:
        if elsewhere or item.get_closest_marker("oracles"):
            item.add_marker(SHOWN)
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
def eagerly():
    """TensorFlow traces nothing: to trace a step takes as long as many steps.

    Nor does Keras then compile grouped convolutions, see `grouped_gradients`.
    Other backends of Keras are left as they are.
    """
    if not on_tensorflow():
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def traced(eagerly):
    """Functions are traced in a test of a file that runs eagerly."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(False)


@pytest.fixture
def grouped_gradients(eagerly):
    """Gradients of grouped convolutions, in a file that runs eagerly.

    TensorFlow's own kernels have none; oneDNN's have, and so has XLA, by which
    Keras compiles such a convolution where functions are not run eagerly. That
    takes ten times as long, so it is done where oneDNN is off.
    """
    import tensorflow as tf

    if os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0":
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def shapes_alone():
    """Models are built without drawing weights, where shapes are asked for."""
    import keras

    with keras.StatelessScope(initialize_variables=False):
        yield
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def chromium():
    """A browser, of the system."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "no browser. To fix this: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    if "keras" not in sys.modules:
        yield
        return
    import keras

    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def pytorch_grad_cam():
    """The library, without the package of images that fits no other torch."""
    with pytest.MonkeyPatch.context() as patch:
        if "torchvision" not in sys.modules:
            transforms = types.ModuleType("torchvision.transforms")
            for name in ("Compose", "Normalize", "ToTensor"):
                setattr(transforms, name, None)
            vision = types.ModuleType("torchvision")
            vision.transforms = transforms
            patch.setitem(sys.modules, "torchvision", vision)
            patch.setitem(sys.modules, vision.transforms.__name__, transforms)
        import pytorch_grad_cam

        yield pytorch_grad_cam
