"""Programs that are killed, in the process that tests them."""

import keras


class Killed(BaseException):
    """Not an Exception: nothing in between may catch it."""


class Kill(keras.callbacks.Callback):
    """Kills `fit` at the end of a step, of all from 1, or around an epoch.

    `begin` is an epoch that has begun, `end` one after its validation; both
    count from 0.
    """

    def __init__(self, *, step=None, begin=None, end=None):
        super().__init__()
        self.step, self.begin, self.end, self.seen = step, begin, end, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.seen = epoch * self.params["steps"]
        if epoch == self.begin:
            raise Killed

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.step:
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.end:
            raise Killed
