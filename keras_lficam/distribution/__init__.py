"""Trains any Keras model on several devices and machines by `model.fit`.

    strategy = keras_lficam.distribution.strategy("auto")
    with strategy.scope():
        model = ...
    model.compile(...)
    model.fit(...)

The names stand in `__init__.pyi` and are imported when they are used: the
command reads TF_CONFIG before TensorFlow starts.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
