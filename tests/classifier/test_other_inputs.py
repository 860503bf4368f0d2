"""An image and a row: what is documented runs, the rest says what to do."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_lficam
from keras_lficam import cli, metrics

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "backbones.md"
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow serves"
)


def blocks():
    """Code of the section, as it stands there."""
    heading = "\n## Models with a second input, such as tabular data\n"
    _, section = PAGE.read_text().split(heading)
    section = section.partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """The names that the first block leaves, run in a folder of its own."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    names = {"keras_lficam": keras_lficam, "images": images}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("documented"))
        first, *_ = blocks()
        if keras.backend.backend() != "tensorflow":
            first = first.replace("view.export(", "str(")
            first = first.replace(", verbose=False", "")
        exec(compile(first, str(PAGE), "exec"), names)
        names["folder"] = pathlib.Path.cwd()
    return names


def test_the_model_of_the_page_is_explained(documented):
    maps = documented["maps"]
    assert maps.shape == (4, 64, 64, 1)
    assert maps.min() >= 0
    assert maps.max() == pytest.approx(1)
    # The row decides, so another one is another question.
    model, images = documented["model"], documented["images"]
    context = {"row": documented["rows"]}
    drop = metrics.average_drop(model, images, maps, context=context)
    assert drop.shape == (4,)


@on_tensorflow
def test_what_the_page_exports_answers_as_the_model_does(
    documented, monkeypatch
):
    monkeypatch.chdir(documented["folder"])
    names = dict(documented)
    _, second = blocks()
    exec(compile(second, str(PAGE), "exec"), names)
    images = keras.ops.convert_to_tensor(names["images"])
    rows = names["rows"]
    expected = names["view"]([images, rows])
    for name in ("predictions", "attention_map", "importance"):
        np.testing.assert_allclose(
            names["answer"][name], expected[name], rtol=0, atol=1e-6
        )
    np.testing.assert_allclose(
        names["answer"]["predictions"],
        names["model"]([images, rows]),
        rtol=0,
        atol=1e-6,
    )
    # The row is an input, not a constant.
    other = names["served"].serve([images, 9 - 3 * rows])
    assert np.abs(other["predictions"] - names["answer"]["predictions"]).max()


def test_attach_says_how_other_inputs_are_kept(documented):
    with pytest.raises(
        ValueError, match="one input.*2 of them.*layers into.*`context`"
    ):
        keras_lficam.attach(documented["model"])


@on_tensorflow
def test_export_names_what_takes_all_inputs(documented, tmp_path):
    with pytest.raises(
        ValueError, match=r"images alone.*2 inputs.*attention_view\(model\)"
    ):
        keras_lficam.export(documented["model"], tmp_path / "served")
    assert not (tmp_path / "served").exists()


@on_tensorflow
@pytest.mark.parametrize("command", ["explain", "export"])
def test_commands_say_what_to_do_in_python(
    command, documented, tmp_path, capsys
):
    path = tmp_path / "model.keras"
    documented["model"].save(path)
    image = tmp_path / "image.png"
    keras.utils.save_img(image, documented["images"][0])
    words = [command, str(path)]
    words += [str(image)] if command == "explain" else []
    words += ["--output", str(tmp_path / "output")]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "takes 2 inputs" in said
    assert "context={...}" in said
    assert "attention_view(model).export(folder)" in said
    assert "Traceback" not in said
