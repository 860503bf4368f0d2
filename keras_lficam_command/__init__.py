"""Starts the command `keras-lficam` without Keras.

`import keras_lficam` imports Keras, so that saved models load. The command
checks its arguments first, without the seconds that TensorFlow takes to start.
Once this package is imported, `keras_lficam` leaves Keras to the command.
"""

from keras_lficam.cli import main

__all__ = ["main"]
