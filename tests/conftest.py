import gc

import keras
import numpy as np
import pytest

# Graphs are many objects that live long; looking through them takes a tenth of
# the time.
gc.set_threshold(200_000, 50, 100)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
