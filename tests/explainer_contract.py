"""What every explainer promises, asked of each."""

import contextlib

import keras
import numpy as np
import pytest
import scipy.sparse

from keras_lficam.classifier import CompiledFunction

# Chunks are taken in NumPy, and JAX recompiles for each size.
CHUNK_SIZES = (1, 100) if keras.backend.backend() == "jax" else (1, 2, 100)


@contextlib.contextmanager
def without_graphs():
    """On TensorFlow explainers compute what they compile otherwise.

    To trace a graph takes a hundred times as long as to compute once. It is
    for what is computed, where another test asks the explainer for its graph.
    """
    with pytest.MonkeyPatch.context() as patch:
        if keras.backend.backend() == "tensorflow":
            patch.setattr(CompiledFunction, "run_eagerly", True)
        yield


@pytest.fixture
def untraced():
    with without_graphs():
        yield


@pytest.fixture
def first_compiled(request):
    """Of explainers that share a compiled function, the first is compiled.

    The others compute other things by it. Those named here have their own.
    """
    call = request.node.callspec
    make = getattr(call.params["make"], "func", call.params["make"])
    own = make.__name__ in ("ScoreCAM", "RISE", "LIME")
    with contextlib.ExitStack() as stack:
        if call.indices["make"] and not own:
            stack.enter_context(without_graphs())
        yield


def check_explainer(make, model, images, folder):
    """Asks an explainer for all that `Explainer` promises.

    Args:
        make: Function of a model, and of options, that gives the explainer.
        model: Classifier that the explainer can explain.
        images: At least three different images `(B, H, W, 3)`.
        folder: Folder to save the model in.
    """
    explainer = make(model)
    maps = explainer(images)
    assert maps.shape == (*images.shape[:3], 1)
    assert isinstance(maps, np.ndarray)
    assert maps.dtype == "float32"
    assert 0 <= maps.min() < maps.max() <= 1
    # Another image, another map; the same again, the same map.
    assert np.abs(maps[0] - maps[1]).max() > 1e-3
    np.testing.assert_array_equal(maps, explainer(images))
    # Alone or in a batch, a single image, and whatever the chunk.
    close = {"atol": 1e-5}
    np.testing.assert_allclose(explainer(images[1:2]), maps[1:2], **close)
    np.testing.assert_allclose(explainer(images[1]), maps[1:2], **close)
    usual = explainer.chunk_size
    for chunk_size in CHUNK_SIZES:
        assert make(model, chunk_size=chunk_size).chunk_size == chunk_size
        explainer.chunk_size = chunk_size  # Nothing is compiled again.
        np.testing.assert_allclose(explainer(images), maps, **close)
    explainer.chunk_size = usual
    # After a save and a reload.
    model.save(folder / "contract.keras")
    loaded = keras.models.load_model(folder / "contract.keras")
    np.testing.assert_array_equal(make(loaded)(images), maps)
    _check_classes(explainer, images, maps)
    forward, backward = explainer.passes
    assert forward >= 1
    assert backward >= 0
    _check_refusals(make, model, images)


def _check_classes(explainer, images, maps):
    scores = CompiledFunction(explainer.model, explainer.classifier.scores)
    with without_graphs():
        predicted = scores.run(images.astype("float32")).argmax(axis=-1)
    # Two compiled programs, which JAX may round in other ways.
    found = explainer(images, predicted)
    np.testing.assert_allclose(found, maps, rtol=0, atol=1e-6)
    number = explainer.classifier.num_classes
    other = (predicted + 1) % number
    differs = np.abs(explainer(images, other) - maps).max() > 1e-3
    assert differs == explainer.class_specific
    one = explainer(images, 0)
    np.testing.assert_array_equal(one, explainer(images, [0] * len(images)))
    for dtype in ("int8", "uint64"):
        same = explainer(images, np.zeros(len(images), dtype))
        np.testing.assert_array_equal(one, same)


def _check_refusals(make, model, images):
    explainer = make(model)
    dark = images.astype("float32")
    dark[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"NaN.*\[1\].*To fix this"):
        explainer(dark)
    with pytest.raises(ValueError, match="finite in float32"):
        explainer(1e300 * images.astype("float64"))
    with pytest.raises(TypeError, match="real numbers"):
        explainer(images + 1j)
    number = explainer.classifier.num_classes
    for wrong in (number, -1):
        with pytest.raises(ValueError, match=f"between 0 and {number - 1}"):
            explainer(images, wrong)
    with pytest.raises(ValueError, match="one for each of the"):
        explainer(images, [0] * (len(images) + 1))
    with pytest.raises(TypeError, match="integers"):
        explainer(images, 0.5)
    for shape in (images[0, 0], images[..., :1], images[np.newaxis]):
        with pytest.raises(ValueError, match=r"must have shape \(batch, "):
            explainer(shape)
    with pytest.raises(ValueError, match="must have shape"):
        explainer(images[:0])
    with pytest.raises(TypeError, match="numbers"):
        explainer(np.full(images.shape, "a"))
    masked = np.ma.masked_greater(images, images.mean())
    sparse = scipy.sparse.coo_array(images[0, ..., 0])
    for wrong in (None, "a", [[1], [2, 3]], masked, sparse):
        with pytest.raises(TypeError, match="`images` must be.*To fix this"):
            explainer(wrong)
    with pytest.raises(ValueError, match="`chunk_size`"):
        make(model, chunk_size=0)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        make("model.keras")
