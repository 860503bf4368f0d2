"""Trains the model that is shipped: python saved_models/train.py FOLDER

About a quarter of an hour on two CPU cores. A run that was stopped goes on when
the command is given again.
"""

import sys

import keras

import keras_lficam
from keras_lficam.backbones import cifar

RECIPE = keras_lficam.Recipe(
    epochs=20,
    batch_size=64,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    warmup_epochs=1,
    ema_epochs=1,
    augmentation=["pad_crop"],
)


def main():
    (folder,) = sys.argv[1:]
    keras.utils.set_random_seed(0)
    backbone = cifar.resnet(8, stem_stride=2)
    model = keras_lficam.build(
        backbone,
        keras_lficam.data.source("digits_in_photos").class_names,
        input_shape=(64, 64, 3),
        output_stride=4,
    )
    keras_lficam.fit(
        model,
        "digits_in_photos",
        RECIPE,
        folder=folder,
        resume=True,
        heat_maps_every=10,
        verbose=2,
    )


if __name__ == "__main__":
    main()
