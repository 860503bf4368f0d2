"""A program that several processes run together; see test_distribution.py.

    python distributed_worker.py STRATEGY OUTPUT.npz

STRATEGY is that of `distribution.strategy`, with `:unrepaired` behind it to
see first that Keras still fails under TensorFlow's own.
"""

import pathlib
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
from small_classifiers import labeled_images, normalized_backbone

import keras_lficam
from keras_lficam import data, distribution

BATCH = 8


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution = keras.layers.Conv2D(4, 3, strides=2)
        self.normalization = keras.layers.BatchNormalization()
        self.pooling = keras.layers.GlobalAveragePooling2D()
        self.predictions = keras.layers.Dense(3, activation="softmax")

    def call(self, images, training=None):
        x = self.convolution(images / 255)
        x = self.normalization(x, training=training)
        return self.predictions(self.pooling(x))


def lfi_cam():
    return keras_lficam.build(normalized_backbone(), 3, input_shape=(16, 16, 3))


def sequential():
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


MODELS = {
    "lfi_cam": lfi_cam,
    "subclassed": Subclassed,
    "sequential": sequential,
}


def train(strategy, make):
    """Trains one model by what Keras has; returns all that came of it."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = make()
        model.build((None, 16, 16, 3))
        distribution.synchronize_batch_normalization(model)
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    images, labels = labeled_images(32, 0)
    # 13: the last batch has five images for two replicas.
    held_out, answers = labeled_images(13, 1)
    history = model.fit(
        images,
        labels,
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        validation_data=(held_out, answers),
        validation_batch_size=BATCH,
        verbose=0,
    ).history
    # Of 9 images in batches of 8 the last leaves a replica with nothing.
    few = model.evaluate(
        held_out[:9],
        answers[:9],
        batch_size=BATCH,
        return_dict=True,
        verbose=0,
    )
    # Of 5 in their one batch a replica gets 3 and the other 2.
    odd = model.evaluate(
        held_out[:5],
        answers[:5],
        batch_size=BATCH,
        return_dict=True,
        verbose=0,
    )
    predictions = model.predict(held_out, batch_size=BATCH, verbose=0)
    return {
        **history,
        **{f"few_{name}": value for name, value in few.items()},
        **{f"odd_{name}": value for name, value in odd.items()},
        "predictions": predictions,
        **{
            f"weight_{number}": value
            for number, value in enumerate(model.get_weights())
        },
    }


def train_in_stages(strategy):
    """A frozen trunk, then all layers at rates of their own, by `fit`."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = lfi_cam()
        distribution.synchronize_batch_normalization(model)
    parts = [
        tf.data.Dataset.from_tensor_slices(labeled_images(count, seed))
        for seed, count in enumerate((32, 13))
    ]
    source = data.from_datasets(
        *[part.batch(4) for part in parts], class_names=["a", "b", "c"]
    )
    recipe = keras_lficam.Recipe(
        epochs=2,
        batch_size=BATCH,
        optimizer="sgd",
        learning_rate=0.05,
        frozen_share=0.5,
        layer_decay=0.5,
        freeze_batch_norm=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        history = keras_lficam.fit(
            model, source, recipe, folder=folder, heat_maps_every=0, verbose=0
        ).history
    weights = {
        f"weight_{number}": value
        for number, value in enumerate(model.get_weights())
    }
    return {
        f"stages/{key}": value for key, value in (history | weights).items()
    }


def train_guided(strategy):
    """A map that is taught by masks, which two of three images have."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = lfi_cam()
        distribution.synchronize_batch_normalization(model)
    parts = []
    # Keras weighs the batches of an output's own loss alike, so that a last
    # one that replicas share unevenly has another share in its mean.
    for seed, count in enumerate((32, 16)):
        masks = np.zeros((count, 16, 16, 1), "float32")
        masks[:, 2:9, 3:12] = 1
        masks[2::3] = np.nan
        parts.append(
            tf.data.Dataset.from_tensor_slices(
                (*labeled_images(count, seed), masks)
            ).batch(4)
        )
    source = data.from_datasets(*parts, class_names=["a", "b", "c"])
    recipe = keras_lficam.Recipe(
        epochs=2,
        batch_size=BATCH,
        optimizer="sgd",
        learning_rate=0.05,
        guidance=1.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        history = keras_lficam.fit(
            model, source, recipe, folder=folder, heat_maps_every=0, verbose=0
        ).history
    assert history["guidance_loss"][0] > 0
    weights = {
        f"weight_{number}": value
        for number, value in enumerate(model.get_weights())
    }
    return {
        f"guided/{key}": value for key, value in (history | weights).items()
    }


def run(strategy):
    return {
        f"{name}/{key}": value
        for name, make in MODELS.items()
        for key, value in train(strategy, make).items()
    }


def main():
    name, output = sys.argv[1], pathlib.Path(sys.argv[2])
    name, _, unrepaired = name.partition(":")
    if name == "mirrored":
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, 2 * [tf.config.LogicalDeviceConfiguration()]
        )
    said = "nothing"
    if unrepaired:
        try:
            train(tf.distribute.MultiWorkerMirroredStrategy(), sequential)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
    strategy = distribution.strategy(name)
    distribution.check_agreement(strategy, {"recipe": [1.5], "seed": 3})
    differs = "nothing"
    resolver = strategy.cluster_resolver
    about = {"recipe": [1.5], "seed": resolver.task_id if resolver else 0}
    try:
        distribution.check_agreement(strategy, about)
    except ValueError as error:
        differs = str(error)
    found = run(strategy)
    if name == "mirrored":
        found |= train_in_stages(strategy)
    found |= train_guided(strategy)
    np.savez(
        output,
        **found,
        said=said,
        differs=differs,
        replicas=strategy.num_replicas_in_sync,
        chief=distribution.is_chief(strategy),
    )


if __name__ == "__main__":
    main()
