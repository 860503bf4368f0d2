import pytest
import tensorflow as tf

from keras_lficam.serving import _signatures


@pytest.fixture
def one_signature(monkeypatch):
    """Exports one signature, not four, where what is beside them is asked."""

    def signatures(served):
        pixels = tf.TensorSpec([None, None, None, 3], tf.float32, "images")
        return {"classify": served._traced(served.classify, pixels)}

    monkeypatch.setattr(_signatures.Served, "signatures", signatures)
