"""The parts of Keras that it does not promise to keep, all in one list.

Whoever raises the version of Keras and sees a test here fail finds in the
message which file of ours counts on what.
"""

import ast
import inspect
import pathlib

import keras
import numpy as np

import keras_lficam

PACKAGE = pathlib.Path(keras_lficam.__file__).parent

# Each private name, what it is, and who counts on it.
PRIVATE = {
    "_flatten_layers": (
        "Model._flatten_layers() lists nested layers too",
        "distribution/strategies.py, training/_averages.py, "
        "serving/_formats.py, and what walks through models",
    ),
    "_set_attr": (
        "TensorFlow's Operation._set_attr(name, value) changes an attribute",
        "serving/_formats.py",
    ),
    "_make_callable_from_options": (
        "TensorFlow's Session._make_callable_from_options(options) feeds "
        "without a check of shapes",
        "serving/stand_in.py",
    ),
    "_keras_history": (
        "KerasTensor._keras_history is (operation, node index, tensor index)",
        "what walks through graphs, see node_of",
    ),
    "_inbound_nodes": (
        "Operation._inbound_nodes lists the calls of a layer",
        "what walks through graphs, see node_of",
    ),
    "_model_variables_moving_average": (
        "Optimizer._model_variables_moving_average holds the EMA",
        "training/optimizers.py, training/_averages.py",
    ),
    "_update_model_variables_moving_average": (
        "Optimizer._update_model_variables_moving_average is called per step",
        "training/optimizers.py overrides it",
    ),
    "_apply_weight_decay": (
        "Optimizer._apply_weight_decay decays the weights in each step",
        "training/optimizers.py overrides it",
    ),
    "_use_weight_decay": (
        "Optimizer._use_weight_decay tells which variables decay",
        "training/optimizers.py, class _LayeredAdamW",
    ),
}
# Public names that begin with an underscore.
PUBLIC = {"_replace", "_SubParsersAction", "_asdict", "_fields", "_exit"}


def tells(name):
    what, where = PRIVATE[name]
    return (
        f"Keras {keras.__version__} no longer has this: {what}. "
        f"Look at: {where}."
    )


def ours(trees):
    """Names with an underscore that the package defines itself."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, ast.alias):
                yield (node.asname or node.name).split(".")[-1]
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(
                node.ctx, ast.Store
            ):
                yield node.attr if isinstance(node, ast.Attribute) else node.id
            elif isinstance(node, ast.arg):
                yield node.arg


def test_the_list_names_every_private_part_that_is_used():
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    used = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        # Types of parsers, which argparse does not export.
        and ast.unparse(node.value) != "argparse"
    }
    own = set(ours(trees)) - PRIVATE.keys()
    assert used - own - PUBLIC == set(PRIVATE) & used
    overridden = {
        "_update_model_variables_moving_average",
        "_apply_weight_decay",
    }
    assert set(PRIVATE) - used == overridden


def test_no_module_imports_from_inside_keras():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            assert not any(n.startswith("keras.src") for n in names), path


def test_graphs_of_keras_are_read_as_expected():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(2)
    outputs = dense(inputs)
    operation, node, tensor = outputs._keras_history
    assert (operation, node, tensor) == (dense, 0, 0), tells("_keras_history")
    (call,) = dense._inbound_nodes
    assert call.input_tensors == [inputs], tells("_inbound_nodes")
    inner = keras.Model(inputs, outputs)
    outer = keras.Sequential([keras.Input((4,)), inner])
    assert dense in list(outer._flatten_layers()), tells("_flatten_layers")


def test_functions_of_keras_are_known_by_their_module():
    outputs = keras.ops.relu(keras.Input((4,)))
    kind = type(outputs._keras_history[0])
    assert (kind.__module__.startswith("keras.src.ops."), kind.__name__) == (
        True,
        "Relu",
    ), (
        f"Keras {keras.__version__} has its functions elsewhere, in "
        f"{kind.__module__} as {kind.__name__}. Look at what compares "
        "__module__ with 'keras.src.ops.'."
    )


def test_optimizers_of_keras_average_as_expected():
    variable = keras.Variable(np.ones(2, "float32"))
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    called = []
    name = "_update_model_variables_moving_average"
    average = getattr(optimizer, name)
    setattr(optimizer, name, lambda v: called.append(v) or average(v))
    optimizer.build([variable])
    optimizer.apply([np.ones(2, "float32")], [variable])
    assert called == [[variable]], tells(name)
    # The first average is the first weights: none are forgotten.
    held = optimizer._model_variables_moving_average
    assert len(held) == 1, tells("_model_variables_moving_average")


def test_optimizers_of_keras_decay_as_expected():
    kept, decayed = (keras.Variable(np.ones(2, "float32")) for _ in range(2))
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay([kept])
    called = []
    name = "_apply_weight_decay"
    decay = getattr(optimizer, name)
    setattr(optimizer, name, lambda v: called.append(v) or decay(v))
    optimizer.build([kept, decayed])
    zeros = [np.zeros(2, "float32")] * 2
    optimizer.apply(zeros, [kept, decayed])
    assert called == [[kept, decayed]], tells(name)
    values = [
        float(keras.ops.convert_to_numpy(one)[0]) for one in (kept, decayed)
    ]
    assert values == [1, 0.5], tells(name)
    decays = [optimizer._use_weight_decay(one) for one in (kept, decayed)]
    assert decays == [False, True], tells("_use_weight_decay")


def test_random_layers_of_keras_ask_a_generator_for_its_next_seed():
    """`_Seeds` skips the `__init__` of Keras's, which makes a variable."""
    told = (
        f"Keras {keras.__version__} draws its seeds otherwise. Look at "
        "data/augmentation.py, the class _Seeds."
    )
    taken = []

    class Seeds(keras.random.SeedGenerator):
        def __init__(self):
            pass

        def next(self, ordered=True):
            taken.append(ordered)
            return np.array([1, 2], "uint32")

    drawn = [keras.random.uniform((3,), seed=Seeds()) for _ in range(2)]
    assert len(taken) == 2, told
    one, other = map(keras.ops.convert_to_numpy, drawn)
    np.testing.assert_array_equal(one, other, err_msg=told)
    assert (
        "ordered"
        in inspect.signature(keras.random.SeedGenerator.next).parameters
    ), told
