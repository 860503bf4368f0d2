import keras
import pytest
from small_classifiers import backbone

import keras_lficam


@pytest.fixture(scope="package")
def attended():
    keras.utils.set_random_seed(3)
    model = keras_lficam.build(
        backbone((32, 32, 3)), 4, input_shape=(32, 32, 3)
    )
    every = model._flatten_layers()
    (dense,) = (x for x in every if isinstance(x, keras.layers.Dense))
    dense.bias.assign([0.3, -0.2, 0.1, 0.7])
    return model


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (5, 32, 32, 3)).astype("float32")
