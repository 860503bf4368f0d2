"""Optimizers and learning rates of a recipe."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_lficam._checks import check_number
from keras_lficam.training.recipes import Recipe

_MOMENTUM = 0.9


class _WarmedAverage:
    """Averages the weights over few steps at first.

    With Keras's constant momentum the first weights stay in the average for
    as many steps as it is to reach back. Here the momentum of step t, from 0
    on, is `min(ema_momentum, t / (9 + t))`.
    """

    # Of the optimizer.
    iterations: keras.Variable
    ema_momentum: float
    _model_variables_moving_average: list[keras.Variable | None]

    def _update_model_variables_moving_average(
        self, trainable_variables: Sequence[keras.Variable]
    ) -> None:
        step = keras.ops.cast(self.iterations, "float32")
        momentum = keras.ops.minimum(self.ema_momentum, step / (9.0 + step))
        pairs = zip(
            trainable_variables,
            self._model_variables_moving_average,
            strict=True,
        )
        for variable, average in pairs:
            if average is not None:
                share = keras.ops.cast(1.0 - momentum, average.dtype)
                average.assign(average + share * (variable - average))


@keras.saving.register_keras_serializable("keras_lficam")
class _AveragedAdamW(_WarmedAverage, keras.optimizers.AdamW):
    """Keras's AdamW with the averages of this package."""


@keras.saving.register_keras_serializable("keras_lficam")
class SGDWithL2(_WarmedAverage, keras.optimizers.SGD):
    """Stochastic gradient descent with an L2 penalty in the gradient.

    Keras's `weight_decay` shrinks the weights beside the gradient. With
    momentum that is another method: a penalty in the gradient gathers in the
    momentum and acts 1 / (1 - momentum) times as strongly. Recipes that were
    published for PyTorch mean the penalty.

    Args:
        learning_rate: Learning rate, or its schedule.
        l2: The penalty's factor, at least 0: `l2 * weight` is added to the
            gradient of every weight.
        momentum: Momentum, in [0, 1).
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Factor of a decay beside the gradient, as Keras's SGD
            has it; None for none.
        clipnorm: Largest norm of the gradient of a weight. Gradients are
            clipped before the penalty is added, as PyTorch's recipes do it.
        clipvalue: Largest magnitude of a number in a gradient.
        global_clipnorm: Largest norm of all gradients together.
        use_ema: Whether to average the weights.
        ema_momentum: Share of the old average in the new one; in step t, from
            0 on, at most t / (9 + t).
        ema_overwrite_frequency: Steps after which the weights become their
            averages; None for at the end of `fit` alone.
        loss_scale_factor: What the loss is multiplied by and the gradients
            are divided by.
        gradient_accumulation_steps: Steps whose gradients are averaged for
            one update, at least 2; None for an update at each step.
        name: Name of the optimizer.

    Raises:
        ValueError: If `l2` or `momentum` is out of its range.

    Examples:
        model.compile(SGDWithL2(0.1, l2=5e-4, momentum=0.9), "mse")

    Reference:
        Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101, sections
        1 and 2, for the difference.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        l2: float = 0.0,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "sgd_with_l2",
    ):
        check_number("l2", l2, 0)
        check_number("momentum", momentum, 0, 1)
        super().__init__(
            learning_rate,
            momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        self.l2 = l2

    def update_step(
        self, gradient: Any, variable: keras.Variable, learning_rate: Any
    ) -> None:
        penalty = keras.ops.multiply(self.l2, variable)
        gradient = keras.ops.add(gradient, penalty)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "l2": self.l2}


class _LayerRates:
    """Learns the variables with learning rates of their own.

    Attributes:
        factors: Factor of the learning rate of each variable, in the order in
            which the optimizer is built with them; empty for 1.
    """

    factors: Sequence[float] = ()
    # Of the optimizer.
    _get_variable_index: Callable[[Any], int]

    def _rate(self, variable: Any, learning_rate: Any) -> Any:
        if not self.factors:
            return learning_rate
        factor = self.factors[self._get_variable_index(variable)]
        return learning_rate * keras.ops.cast(factor, learning_rate.dtype)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return {**config, "factors": list(self.factors)}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> Any:
        rest = {k: value for k, value in config.items() if k != "factors"}
        optimizer = super().from_config(rest, custom_objects)  # type: ignore[misc]
        optimizer.factors = tuple(config["factors"])
        return optimizer


@keras.saving.register_keras_serializable("keras_lficam")
class _LayeredSGD(_LayerRates, SGDWithL2):
    """`SGDWithL2` with learning rates of the variables' own."""

    def update_step(
        self, gradient: Any, variable: keras.Variable, learning_rate: Any
    ) -> None:
        rate = self._rate(variable, learning_rate)
        super().update_step(gradient, variable, rate)


@keras.saving.register_keras_serializable("keras_lficam")
class _LayeredAdamW(_LayerRates, _AveragedAdamW):
    """AdamW with learning rates of the variables' own, by which they decay."""

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Does nothing: Keras's knows one learning rate alone."""

    def update_step(
        self, gradient: Any, variable: keras.Variable, learning_rate: Any
    ) -> None:
        rate = self._rate(variable, learning_rate)
        if self.weight_decay and self._use_weight_decay(variable):
            share = keras.ops.cast(rate * self.weight_decay, variable.dtype)
            self.assign_sub(variable, share * variable)
        super().update_step(gradient, variable, rate)


def make_optimizer(
    recipe: Recipe, steps: int, factors: Sequence[float] = ()
) -> keras.optimizers.Optimizer:
    """Makes the optimizer of a recipe.

    Args:
        recipe: The recipe.
        steps: Steps in an epoch.
        factors: Factor of the learning rate of each variable, in the order in
            which the optimizer is built with them; none for 1.

    Returns:
        A Keras optimizer whose learning rate follows the recipe.
    """
    optimizer = _make_optimizer(recipe, steps, layered=bool(factors))
    if factors:
        optimizer.factors = tuple(factors)
    return optimizer


def _make_optimizer(recipe: Recipe, steps: int, *, layered: bool) -> Any:
    rate = _learning_rate(recipe, steps)
    averaging = recipe.ema_epochs > 0
    # Of weights that lie `window` steps apart the older counts 1/e as much.
    window = max(1.0, recipe.ema_epochs * steps)
    momentum = 1 - 1 / window
    if recipe.optimizer == "sgd":
        return (_LayeredSGD if layered else SGDWithL2)(
            rate,
            recipe.weight_decay,
            _MOMENTUM,
            use_ema=averaging,
            ema_momentum=momentum,
        )
    adamw = (_LayeredAdamW if layered else _AveragedAdamW)(
        rate,
        weight_decay=recipe.weight_decay,
        use_ema=averaging,
        ema_momentum=momentum,
        name="adamw",
    )
    adamw.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return adamw


def _learning_rate(
    recipe: Recipe, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    schedules = keras.optimizers.schedules
    total = recipe.epochs * steps
    if recipe.schedule == "constant":
        return recipe.learning_rate
    if recipe.schedule == "steps":
        factors = [0.1**number for number in range(len(recipe.decay_at) + 1)]
        return schedules.PiecewiseConstantDecay(
            # The new rate begins behind the boundary.
            [round(share * total) - 1 for share in recipe.decay_at],
            [recipe.learning_rate * factor for factor in factors],
        )
    warmup = min(round(recipe.warmup_epochs * steps), total // 2)
    if warmup == 0:
        return schedules.CosineDecay(recipe.learning_rate, total)
    return schedules.CosineDecay(
        0.0,
        total - warmup,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
    )
