"""`fit`: a run from its recipe to its folder."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lficam import data as data_sets, distribution, explainers, surgery
from keras_lficam._checks import (
    check_boolean,
    check_choice,
    check_integer,
    path_of,
)
from keras_lficam._files import atomic_write
from keras_lficam.classifier import (
    grouped_gradients_explained,
    training_activation,
)
from keras_lficam.data.loading import found_source
from keras_lficam.data.targets import (
    with_targets,
    with_weights,
    zero_targets,
)
from keras_lficam.training import (
    _folder,
    _stages,
    _state as state,
    consistency,
    guidance,
)
from keras_lficam.training._averages import Shown, first_images
from keras_lficam.training._classification import as_text, classification
from keras_lficam.training._monitor import Monitored, check_monitor
from keras_lficam.training._run import Run, output_of
from keras_lficam.training._weights import EachLabel, class_weights
from keras_lficam.training.callbacks import (
    BestModel,
    Checkpoints,
    HeatMaps,
    Log,
    OfClassifier,
    RestoredStopping,
)
from keras_lficam.training.guidance import Guidance
from keras_lficam.training.optimizers import make_optimizer
from keras_lficam.training.recipes import (
    RECIPES,
    Recipe,
    recipe as recipe_named,
)

_LOG = logging.getLogger("keras_lficam")
_SHOWN_IMAGES = 12


def fit(
    model: keras.Model,
    data: Any,
    recipe: Recipe | str = "modern",
    *,
    folder: str | os.PathLike[str],
    resume: bool = False,
    seed: int = 0,
    checkpoint_every: int = 500,
    heat_maps_every: int = 5,
    jit_compile: bool | str = "auto",
    steps_per_execution: int = 1,
    class_weight: Mapping[int | str, float] | str | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Trains a classifier after a recipe, in a folder that can be resumed.

    Loss, metrics and optimizer are the recipe's; the model is compiled here.
    The validation images choose the best epoch, by the recipe's `monitor`; the
    test images, if there are any, are looked at once, at the end.

    The folder gets `model.keras`, the best model, with `labels.txt`; `log.csv`,
    a line for each epoch; `metrics.json`; `heat_maps/`; `tensorboard/`;
    `run.json`, recipe, seed and versions; `damaged.txt`, if files could not be
    read; and `checkpoint.npz`, from which an interrupted run resumes.

    A model made in the scope of a `tf.distribute` strategy is trained on its
    replicas; see `keras_lficam.distribution`.

    Args:
        model: Classifier of images `(B, H, W, 3)`, or gray `(B, H, W, 1)`,
            in 0 to 255, one of its outputs for each class.
        data: Name or folder, as for `data.source`, or what it or
            `data.from_datasets` gives. Where its images have several labels,
            the model must end with a sigmoid; the accuracy is then that of
            single labels, at 0.5.
        recipe: A `Recipe`, or the name of one for `training.recipe`, which is
            told the number of images and, where an image has one label, of
            those of each class.
        folder: Folder of the run, made if it is not there.
        resume: Whether to resume from the last saved step of the run in the
            folder. Model, data, recipe and seed must be the same. Where none
            has been saved it begins at the beginning.
        seed: Decides order and augmentation of the images. Weights and
            dropout follow `keras.utils.set_random_seed` before the model is
            built.
        checkpoint_every: Steps after which the state is saved, beside the end
            of each epoch.
        heat_maps_every: Epochs after which heat maps of the same validation
            images are drawn; 0 for never.
        jit_compile: As for `model.compile`.
        steps_per_execution: As for `model.compile`.
        class_weight: Weights of the classes in the training loss, by their
            numbers or names, 1 where none is given; or `"balanced"`: N / (K
            N_k) for class k with N_k of the N training images of K classes.
            Where images have several labels, a given weight is that of an
            image's own labels, 1 that of the labels that it lacks, and
            `"balanced"` weighs the two by N / (2 N_k) and N / (2 (N - N_k)).
            It multiplies sample weights that the data has. Where an
            augmentation mixes images, theirs is mixed, too. Validation is not
            weighted. None takes those of the recipe, `{}` takes none.
        callbacks: More callbacks. `keras_lficam.evaluation.MapQuality` is one.
        verbose: As for `model.fit`.

    Returns:
        What `model.fit` returns, with the epochs before it was resumed. The
        model has the weights of its best epoch.

    Raises:
        ValueError: If the classes of model and data differ, an argument is out
            of range, the folder holds a run and `resume` is false, or the run
            in it differs.
        TypeError: If an argument is of the wrong type.
        OSError: If the folder cannot be written.

    Examples:
        model = keras_lficam.build("ResNet20", 10, input_shape=(64, 64, 3))
        recipe = keras_lficam.Recipe(epochs=1, batch_size=8)
        keras_lficam.fit(model, source, recipe, folder="runs/digits")
    """
    folder = path_of("folder", folder)
    check_boolean("resume", resume)
    _check_for_keras(jit_compile, callbacks, verbose)
    check_integer("checkpoint_every", checkpoint_every, least=1)
    check_integer("seed", seed, least=0)
    check_integer("heat_maps_every", heat_maps_every, least=0)
    check_integer("steps_per_execution", steps_per_execution, least=1)
    run = _plan(
        model,
        data,
        recipe,
        folder,
        seed,
        steps_per_execution,
        weighed=class_weight is not None,
    )
    chosen = run.recipe.class_weight if class_weight is None else class_weight
    if class_weight is None and isinstance(chosen, tuple):
        chosen = dict(chosen)
    run = _with_more_outputs(
        dataclasses.replace(
            run, class_weights=class_weights(chosen, run.source)
        )
    )
    check_monitor(run)
    with _naming_images(run.folder), grouped_gradients_explained():
        _check_workers(run, [checkpoint_every, heat_maps_every])
        restored = _folder.begin(run, resume)
        distribution.check_agreement(
            run.strategy, {"saved step": restored.step if restored else None}
        )
        return _trained(
            run,
            restored,
            checkpoint_every=checkpoint_every,
            heat_maps_every=heat_maps_every,
            compilation={
                "jit_compile": jit_compile,
                "steps_per_execution": steps_per_execution,
            },
            callbacks=callbacks,
            verbose=verbose,
        )


def _check_for_keras(
    jit_compile: object, callbacks: object, verbose: object
) -> None:
    """Checks what only Keras looks at, which does so behind our first file."""
    if not isinstance(jit_compile, str) or jit_compile != "auto":
        check_boolean("jit_compile", jit_compile)
    if not isinstance(callbacks, (list, tuple)) or not all(
        isinstance(callback, keras.callbacks.Callback) for callback in callbacks
    ):
        raise TypeError(
            "Argument `callbacks` must be a list of keras.callbacks.Callback. "
            f"Received: callbacks={callbacks!r:.80} of type "
            f"{type(callbacks).__name__}. To fix this: callbacks=[callback]"
        )
    if not isinstance(verbose, (str, int)) or verbose not in ("auto", 0, 1, 2):
        raise ValueError(
            "Argument `verbose` must be 'auto', 0, 1 or 2. "
            f"Received: verbose={verbose!r:.80}"
        )


def _check_workers(run: Run, writing: Sequence[int]) -> None:
    """Refuses workers that would not train one model on one data set."""
    if run.strategy is None or run.strategy.cluster_resolver is None:
        return
    versions = _folder.versions()
    del versions["python"]
    about = _folder.about_run(run) | {
        "data's images": run.source.digest(),
        "model": [
            [variable.path.rpartition("/")[2], list(variable.shape)]
            for variable in run.model.variables
        ],
        "dtype": keras.config.floatx(),
        # The workers read their variables together.
        "checkpoint_every and heat_maps_every": writing,
        "versions": versions,
    }
    distribution.check_agreement(run.strategy, about)


def _trained(
    run: Run,
    restored: state.State | None,
    *,
    checkpoint_every: int,
    heat_maps_every: int,
    compilation: Mapping[str, Any],
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: int | str,
) -> keras.callbacks.History:
    _folder.check_model(run, restored)
    rows = [] if restored is None else restored.rows
    log = Log(run.folder / _folder.ROWS, rows, write=run.writes)
    if run.writes and restored is None:
        log.path.unlink(missing_ok=True)
    elif run.writes:
        log.save()  # Of an epoch that is trained again the line is gone.
    with _stages.Freezing(run.model, run.recipe) as freezing:
        # The stage of the epoch that is trained next, of a run that has ended
        # of the last.
        done = restored.step - restored.finished if restored else 0
        frozen = done // run.steps < run.frozen_epochs
        _begin_stage(run, freezing, compilation, frozen=frozen)
        if restored is not None:
            path = run.folder / _folder.STATE
            with _scope(run):
                state.restore(run.trained, restored, path)
        # Outside the scope, where callbacks compute on this worker alone.
        best = BestModel(
            run.folder / _folder.MODEL,
            monitor=run.monitor,
            rows=[*rows],
            write=run.writes,
            saved=run.model,
            as_built=freezing.as_built,
        )
        before = [*rows]
        validation = _kept(run, "validation")
        if restored is not None and restored.finished:
            history = keras.callbacks.History()
            history.on_train_begin()
            history.set_model(run.trained)
        else:
            stages = _stages.Stages(
                run.frozen_epochs,
                frozen=frozen,
                begin=functools.partial(
                    _begin_stage, run, freezing, compilation, within=True
                ),
            )
            history = run.trained.fit(
                _training(run, restored),
                validation_data=_evaluation(run, "validation", validation),
                initial_epoch=restored.step // run.steps if restored else 0,
                epochs=run.recipe.epochs,
                steps_per_epoch=run.steps,
                shuffle=False,  # The stream does.
                callbacks=[
                    *_before(run, restored, rows, checkpoint_every, stages),
                    # It predicts with the EMA, which the first one sets.
                    *([Monitored(run, validation)] if run.predicts else []),
                    *callbacks,
                    *(
                        [OfClassifier(callbacks, run.model)]
                        if run.with_more_outputs
                        else []
                    ),
                    *_after(run, before, best, heat_maps_every),
                    log,
                ],
                verbose=verbose,
            )
        _put_first(before, history)
        _finish(run, history, best, validation)
    return history


def _scope(run: Run) -> contextlib.AbstractContextManager[Any]:
    scope: contextlib.AbstractContextManager[Any] = (
        run.strategy.scope() if run.strategy else contextlib.nullcontext()
    )
    return scope


def _begin_stage(
    run: Run,
    freezing: _stages.Freezing,
    compilation: Mapping[str, Any],
    *,
    frozen: bool,
    within: bool = False,
) -> None:
    """Makes the model ready for a stage, also within its `fit`."""
    freezing.freeze(frozen)
    with _scope(run):
        _compile(run, compilation, freezing, frozen=frozen)
        if within:  # Keras builds them before the first epoch alone.
            _build_metrics(run)
            run.trained.make_train_function()


@contextlib.contextmanager
def _naming_images(folder: pathlib.Path) -> Iterator[None]:
    """Says in one line what TensorFlow says of an image it could not read."""
    try:
        yield
    except Exception as error:
        reason = data_sets.changed_file(error)
        if reason is None:
            raise
        raise ValueError(
            f"{reason}. Training stopped, and {folder} holds its last "
            "checkpoint. To fix this: put the image back as it was, and "
            "resume the run; or begin in another folder without it."
        ) from error


def _plan(
    model: keras.Model,
    data: Any,
    recipe: Recipe | str,
    folder: pathlib.Path,
    seed: int,
    steps_per_execution: int,
    *,
    weighed: bool = False,
) -> Run:
    """Checks the arguments, and finds what follows from it.

    With `weighed` the caller has given weights of the classes.
    """
    _check_model(model)
    if isinstance(recipe, str):
        check_choice("recipe", recipe, RECIPES)
    source = _source(data)
    image_size = _image_size(model, source)
    if isinstance(recipe, str):
        recipe = recipe_named(
            recipe,
            data=source.name,
            backbone=model.name,
            image_size=image_size,
            images=source.count("train"),
            # To count them all records are read.
            class_counts=None
            if source.multi_label or recipe == "paper" or weighed
            else source.class_counts("train"),
        )
    elif not isinstance(recipe, Recipe):
        raise TypeError(
            "Argument `recipe` must be a Recipe or the name of one. Received: "
            f"recipe={recipe!r} of type {type(recipe).__name__}"
        )
    _check_classes(model, source)
    _check_labels(model, source)
    strategy = getattr(model, "distribute_strategy", None)
    batches = math.ceil(source.count("train") / recipe.batch_size)
    return Run(
        model=model,
        source=source,
        recipe=recipe,
        folder=folder,
        seed=seed,
        image_size=image_size,
        # `fit` makes its executions whole.
        steps=steps_per_execution * math.ceil(batches / steps_per_execution),
        strategy=strategy,
        writes=strategy is None or distribution.is_chief(strategy),
    )


def _with_more_outputs(run: Run) -> Run:
    """Makes the map of the model an output, if the recipe teaches it."""
    recipe = run.recipe
    trained, guide = None, None
    if recipe.guidance:
        _check_masks(run)
    with _scope(run):
        if recipe.guidance:
            guide = Guidance(run.model, recipe.guided, recipe.guidance_loss)
            trained = guide.model
        if recipe.consistency:
            mirrors = {"flip_vertical": 1, "flip": 2}
            axes = [mirrors[n] for n in mirrors if n in recipe.augmentation]
            trained = consistency.with_consistency(
                trained or run.model, run.model, tuple(axes), run.seed
            )
    return dataclasses.replace(run, guide=guide, with_more_outputs=trained)


def _check_masks(run: Run) -> None:
    if not run.source.has_masks:
        raise ValueError(
            "Argument `recipe` must have guidance=0 for data without masks. "
            f"Received: guidance={run.recipe.guidance} for {run.source.name}, "
            f"which has {run.source._contents}. To fix this: a folder `masks` "
            "beside those of the classes, a column `mask` in a CSV file, or "
            "data.source(..., masks=...) for boxes of COCO or Pascal VOC."
        )
    if not run.source.count_masks("train"):
        raise ValueError(
            "Argument `recipe` must have guidance=0 where no image to train "
            f"with has a mask. Received: guidance={run.recipe.guidance} for "
            f"{run.source.name}. To fix this: give masks of training images."
        )


def _source(data: Any) -> data_sets.Source:
    if isinstance(data, data_sets.Source):
        return data
    if not isinstance(data, (str, os.PathLike)):
        raise TypeError(
            "Argument `data` must be the name of a data set, a folder of "
            "images, or what keras_lficam.data.source or from_datasets gives. "
            f"Received: an object of type {type(data).__name__}. To fix this: "
            "data.from_datasets(tf.data.Dataset.from_tensor_slices((images, "
            "labels)).batch(32), validation, class_names=[...]), with "
            "validation images in the same form; or compile the model and "
            "train it by model.fit."
        )
    return found_source(data, argument="data")


def _compile(
    run: Run,
    compilation: Mapping[str, Any],
    freezing: _stages.Freezing,
    *,
    frozen: bool,
) -> None:
    labeled = _losses_and_metrics(run)
    if run.with_more_outputs:
        labeled["loss_weights"] = dict.fromkeys(run.outputs, 1.0)
        for name, weight, loss in (
            (
                guidance.OUTPUT,
                run.recipe.guidance,
                run.guide and run.guide.loss,
            ),
            (consistency.OUTPUT, run.recipe.consistency, "mean_absolute_error"),
        ):
            if weight:
                labeled["loss_weights"][name] = weight
                labeled["loss"][name] = loss
    variables = run.trained.trainable_variables
    run.trained.compile(
        make_optimizer(
            _stages.of_stage(run.recipe, frozen=frozen),
            run.steps,
            freezing.factors(variables),
        ),
        **labeled,
        **compilation,
    )
    run.trained.optimizer.build(variables)
    if run.with_more_outputs:
        # For the caller's callbacks, and to be evaluated after the run.
        alone = dataclasses.replace(run, with_more_outputs=None)
        run.model.compile(
            run.trained.optimizer, **_losses_and_metrics(alone), **compilation
        )


def _losses_and_metrics(run: Run) -> dict[str, Any]:
    """What a run compiles its model with, for the outputs with a label."""
    logits = training_activation(run.model) is not None
    smoothing = run.recipe.label_smoothing
    loss: keras.losses.Loss
    if run.source.multi_label and run.class_weights:
        loss = EachLabel(label_smoothing=smoothing)
    elif run.activation is keras.activations.sigmoid:
        loss = keras.losses.BinaryCrossentropy(label_smoothing=smoothing)
    elif run.shares_labels:
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=logits, label_smoothing=smoothing
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    accuracy = _accuracy(run)
    names = run.outputs
    return {
        "loss": dict.fromkeys(names, loss) if names else loss,
        "metrics": {"predictions": [accuracy]} if names else [accuracy],
    }


def _accuracy(run: Run) -> keras.metrics.Metric:
    if run.source.multi_label:
        return keras.metrics.BinaryAccuracy(name="accuracy")
    if run.shares_labels:
        return keras.metrics.CategoricalAccuracy(name="accuracy")
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")


def _more_outputs(run: Run) -> list[str]:
    """Names of the outputs that learn no label."""
    if run.with_more_outputs is None:
        return []
    return [name for name in run.trained.output if name not in run.outputs]


def _build_metrics(run: Run) -> None:
    """Makes the variables of the metrics by a label and a prediction."""
    label = np.zeros((1, run.classes) if run.shares_labels else 1, "int64")
    scores = np.full((1, run.classes), 1 / run.classes, "float32")
    labels = dict.fromkeys(run.outputs, label) if run.outputs else label
    found = dict.fromkeys(run.outputs, scores) if run.outputs else scores
    for name in _more_outputs(run):
        shape = (1, *run.trained.output[name].shape[1:])
        labels[name] = found[name] = np.zeros(shape, "float32")
    run.trained.compute_loss(y=labels, y_pred=found, training=False)
    run.trained.compute_metrics(None, labels, found)
    run.trained.reset_metrics()


def _training(run: Run, restored: state.State | None) -> Any:
    """Makes the batches of all epochs that are left."""
    first_step = 0 if restored is None else restored.step
    done = first_step % run.steps
    if done and keras.backend.backend() == "torch":
        # There `fit` takes the batches itself, also of steps that are done.
        first_step -= done
    if done:
        _pass_over(run.trained, done)

    def batches(shard: int, shards: int) -> Any:
        stream = _stream(run, first_step=first_step, shard=(shard, shards))
        return _with_targets(
            run,
            stream,
            "train",
            class_weights=run.class_weights,
            mask_share=run.recipe.guidance_share,
        )

    return distribution.distribute(run.strategy, batches, run.recipe.batch_size)


def _stream(run: Run, **part: Any) -> Any:
    """The endless stream of a run's training images, or a part of it."""
    return run.source.stream(
        "train",
        image_size=run.image_size,
        batch_size=run.recipe.batch_size,
        seed=run.seed,
        augmentation=run.recipe.augmentation,
        channels=run.channels,
        with_masks=run.guide is not None,
        mask_share=run.recipe.guidance_share,
        **part,
    )


def _pass_over(model: keras.Model, steps: int) -> None:
    """Lets `fit` count steps that were done before without doing them.

    It knows of no epoch that begins in its middle. So its train function, an
    attribute of every Keras model, does nothing that many times.
    """
    model.make_train_function()
    train = model.train_function
    left = steps

    def train_function(*arguments: Any) -> Any:
        nonlocal left
        left -= model.steps_per_execution
        if left <= 0:
            model.train_function = train
        if keras.backend.backend() == "jax":  # Takes and gives the state.
            return {}, arguments[0]
        return {}

    model.train_function = train_function


def _kept(run: Run, split: str) -> Any:
    """Batches to predict and evaluate, kept in memory if they fit."""
    return run.source.batches(
        split,
        image_size=run.image_size,
        batch_size=_evaluation_batch_size(run, split),
        resizing=run.recipe.resizing,
        cache=True,
        channels=run.channels,
        with_masks=run.guide is not None,
    )


def _evaluation_batch_size(run: Run, split: str) -> int:
    return distribution.evaluation_batch_size(
        run.recipe.batch_size, run.source.count(split)
    )


def _evaluation(run: Run, split: str, kept: Any) -> Any:
    batch_size = _evaluation_batch_size(run, split)
    batches = with_weights(kept, run.source, split, batch_size)
    batches = _with_targets(run, batches, split)
    if run.strategy is None:
        return batches
    count = run.source.count(split)
    return distribution.for_evaluation(run.strategy, batches, count, batch_size)


def _with_targets(
    run: Run,
    batches: Any,
    split: str,
    *,
    class_weights: Sequence[Any] | None = None,
    mask_share: float = 1.0,
) -> Any:
    more: dict[str, tuple[Any, float]] = {}
    if run.guide:
        # The loss is that of a mean over all images; of those with a mask it
        # is so many times as much.
        masks = run.source.count_masks(split, mask_share)
        weight = run.source.count(split) / max(masks, 1)
        more[guidance.OUTPUT] = run.guide.targets, weight
    if run.recipe.consistency:
        more[consistency.OUTPUT] = zero_targets, 1.0
    return with_targets(
        batches,
        shares_of=run.classes if run.shares_labels else None,
        outputs=run.outputs,
        class_weights=class_weights,
        more=more,
        with_masks=run.guide is not None,
    )


def _before(
    run: Run,
    restored: state.State | None,
    rows: list[dict[str, float | str]],
    every: int,
    stages: _stages.Stages,
) -> Iterator[keras.callbacks.Callback]:
    """Callbacks that stand before those of the caller."""
    averaged = run.recipe.ema_epochs > 0
    if averaged or run.recipe.recompute_statistics:
        # First, so that all others find the averages at the end of an epoch,
        # and the state at its beginning is saved without them.
        images = first_images(_stream(run), run.recipe.batch_size, run.steps)
        yield Shown(images, averaged=averaged, classifier=run.model)
    # After the averages are gone, and before the state of a new stage is saved.
    yield stages
    yield Checkpoints(
        run.folder / _folder.STATE,
        steps=run.steps,
        every=every,
        restored=restored,
        rows=rows,
        build_metrics=functools.partial(_build_metrics, run),
        write=run.writes,
    )


def _after(
    run: Run,
    rows: Sequence[dict[str, float | str]],
    best: BestModel,
    heat_maps_every: int,
) -> Iterator[keras.callbacks.Callback]:
    """Callbacks that stand behind those of the caller."""
    yield best
    if run.recipe.patience is not None:
        stopping = keras.callbacks.EarlyStopping(
            run.monitor,
            mode="min" if run.recipe.monitor == "loss" else "max",
            patience=run.recipe.patience,
            start_from_epoch=run.frozen_epochs,
        )
        yield stopping
        yield RestoredStopping(stopping, rows)
    if heat_maps_every:
        yield from _heat_maps(run, heat_maps_every)
    if run.writes:
        yield keras.callbacks.TensorBoard(
            run.folder / "tensorboard", write_graph=False
        )


def _heat_maps(run: Run, every: int) -> Iterator[HeatMaps]:
    names = {layer.name for layer in run.model.layers}
    explainer: Any = explainers.GradCAM
    if "attention_map" in names:
        explainer = explainers.AttentionMap
    try:
        explainer(run.model)
    except (TypeError, ValueError) as error:
        _LOG.info("No heat maps are drawn: %s", error)
        return
    chosen = run.source.batches(
        "validation",
        image_size=run.image_size,
        batch_size=_SHOWN_IMAGES,
        shuffle=True,
        seed=run.seed,
        resizing=run.recipe.resizing,
        channels=run.channels,
    )
    images, labels = next(chosen.as_numpy_iterator())
    yield HeatMaps(
        explainer,
        images,
        labels,
        class_names=run.source.class_names,
        every=every,
        folder=run.folder / "heat_maps",
        log_dir=run.folder / "tensorboard",
        draw=run.writes,
        activation=training_activation(run.model),
    )


def _put_first(
    rows: Sequence[Mapping[str, Any]], history: keras.callbacks.History
) -> None:
    """Completes a history with the epochs before the run was resumed."""
    history.epoch[:0] = range(len(rows))
    for name in rows[0] if rows else ():
        earlier = [row[name] for row in rows]
        history.history[name] = earlier + history.history.get(name, [])


def _finish(
    run: Run,
    history: keras.callbacks.History,
    best: BestModel,
    validation: Any,
) -> None:
    """Gives the model its best weights, and writes how good it is."""
    if best.weights is None:
        saved = keras.models.load_model(
            run.folder / _folder.MODEL, compile=False
        )
        best.weights = saved.get_weights()
    run.model.set_weights(best.weights)
    epoch: Any = best.epoch  # Of a run that has ended there is one.
    metrics = {
        "epochs": len(history.epoch),
        "best_epoch": epoch + 1,
        "monitor": run.recipe.monitor,
        "validation_accuracy": history.history[f"val_{run.accuracy}"][epoch],
        "validation_loss": history.history["val_loss"][epoch],
    }
    kept = {"validation": validation}
    if "test" in run.source.splits:
        kept["test"] = _kept(run, "test")
        tested = run.trained.evaluate(
            _evaluation(run, "test", kept["test"]),
            return_dict=True,
            verbose=0,
        )
        metrics["test_accuracy"] = tested[run.accuracy]
        metrics["test_loss"] = tested["loss"]
    # On every worker: to read variables may need all of them.
    for split, batches in kept.items():
        metrics[split] = classification(run, batches)
    if run.writes:
        with atomic_write(run.folder / _folder.METRICS) as partial:
            partial.write_text(as_text(metrics), encoding="utf-8")


def _check_model(model: keras.Model) -> None:
    """Refuses what is no classifier of images, or not built."""
    surgery.check_graph(model)
    surgery.check_one("input", model, model.inputs)
    surgery.check_images(model, model.inputs[0])
    if model.inputs[0].shape[-1] not in (1, 3, None):
        raise ValueError(
            "Argument `model` must take images of 3 channels, or 1 for gray "
            f"ones, as the data has them. Received: {model.name!r} with the "
            f"input shape {model.input_shape}. To fix this: put a layer in "
            "front that makes its channels of red, green and blue; or compile "
            "the model and train it by model.fit."
        )
    output = output_of(model)
    named = isinstance(output, dict) and "predictions" in output
    if not named and not isinstance(output, keras.KerasTensor):
        outputs = list(output) if isinstance(output, dict) else len(output)
        raise ValueError(
            "Argument `model` must have one output, or a dictionary of them "
            "of which one is 'predictions'. Received: "
            f"{model.name!r} with the outputs {outputs}. To fix this: "
            "keras.Model(inputs, {'predictions': scores, ...})."
        )


def _image_size(
    model: keras.Model, source: data_sets.Source
) -> tuple[int, int]:
    sizes = zip(model.input_shape[1:3], source.image_shape[:2], strict=True)
    height, width = (own or of_data for own, of_data in sizes)
    if height is None or width is None:
        raise ValueError(
            "Argument `model` must take images of one size where those of the "
            f"data have many. Received: {model.name!r} with the input shape "
            f"{model.input_shape}. To fix this: build it with input_shape, "
            "such as (224, 224, 3)."
        )
    return height, width


def _check_classes(model: keras.Model, source: data_sets.Source) -> None:
    output = output_of(model)
    outputs = output.values() if isinstance(output, dict) else [output]
    for tensor in outputs:
        if tensor.shape[-1] != len(source.class_names):
            raise ValueError(
                "Argument `model` must have an output for each of the "
                f"{len(source.class_names)} classes of {source.name}. "
                f"Received: {model.name!r} with {tensor.shape[-1]}. To fix "
                f"this: build it with classes={len(source.class_names)}."
            )


def _check_labels(model: keras.Model, source: data_sets.Source) -> None:
    activation = surgery.last_activation(model)
    if source.multi_label and activation is not keras.activations.sigmoid:
        raise ValueError(
            "Argument `model` must end with a sigmoid where images have "
            "several labels, for then each class is a yes or no of its own. "
            f"Received: {model.name!r} with another activation. To fix this: "
            "build it with classifier_activation='sigmoid'."
        )
