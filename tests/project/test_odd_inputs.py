"""A small part of what `odd_inputs.py` tries."""

import keras
import numpy as np
import odd_inputs
import pytest


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the script uses its data"
)
def test_odd_inputs_are_refused_by_name():
    counts, findings = odd_inputs.run(600, seed=1)
    assert findings == {}
    assert counts["refused"] >= 595


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (lambda x: np.asarray(x).sum(), "accepted"),
        (lambda x: x.sum(), "from the depths"),
        (lambda x: keras.Sequential(x), "from the depths"),
    ],
)
def test_what_is_not_refused_is_found(call, outcome):
    found, _ = odd_inputs.attempt(
        call, {"x": (np.ones(3), "maps")}, "x", lambda x: x.tolist()
    )
    assert found == outcome
