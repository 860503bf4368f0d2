"""Model repositories for Triton, KServe and OpenVINO Model Server."""

import pytest
import small_onnx
import yaml

from keras_lficam.serving import Limits, write_repository


@pytest.fixture
def version(tmp_path):
    limits = Limits(images=32)
    return small_onnx.write(tmp_path / "models/rgb_1/7", limits=limits)


CONFIG = """\
# Written by keras_lficam; it is rewritten with each version.
name: "rgb_1"
backend: "onnxruntime"
max_batch_size: 32
input [ { name: "images" data_type: TYPE_FP32 dims: [ 2, 2, 3 ] } ]
output [ { name: "probabilities" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "class_evidence" data_type: TYPE_FP32 dims: [ 2, 2, 3 ] } ]
output [ { name: "evidence_classes" data_type: TYPE_INT32 dims: [ 3 ] } ]
output [ { name: "attention_map" data_type: TYPE_FP32 dims: [ 2, 2, 1 ] } ]
dynamic_batching { max_queue_delay_microseconds: 5000 }
version_policy { latest { num_versions: 1 } }
"""


def test_triton_s_layout_is_written(version, tmp_path):
    root = tmp_path / "repository"
    target = write_repository(version, root)
    assert target == root / "rgb_1" / "7"
    assert sorted(p.name for p in target.iterdir()) == [
        "export.json",
        "labels.txt",
        "model.onnx",
    ]
    for path in target.iterdir():
        assert path.read_bytes() == (version / path.name).read_bytes()
    assert (root / "rgb_1/config.pbtxt").read_text() == CONFIG
    assert sorted(p.name for p in root.iterdir()) == [
        "rgb_1",
        "rgb_1.inference-service.yaml",
    ]


def test_the_resource_of_kserve_names_model_and_version(version, tmp_path):
    write_repository(version, tmp_path / "repository")
    path = tmp_path / "repository/rgb_1.inference-service.yaml"
    service = yaml.safe_load(path.read_text())
    assert service["kind"] == "InferenceService"
    assert service["metadata"] == {"name": "rgb-1"}
    predictor = service["spec"]["predictor"]["model"]
    assert predictor["protocolVersion"] == "v2"
    (container,) = service["spec"]["transformer"]["containers"]
    assert container["args"] == [
        "--model_name",
        "rgb_1",
        "--model_dir",
        "/mnt/models/rgb_1/7",
    ]
    (variable,) = container["env"]
    assert variable["value"] == predictor["storageUri"]


def test_the_python_backend_takes_images_or_files(version, tmp_path):
    target = write_repository(version, tmp_path / "r", backend="python")
    program = (target / "model.py").read_text()
    assert "triton_model import TritonPythonModel" in program
    lines = (tmp_path / "r/rgb_1/config.pbtxt").read_text().splitlines()
    assert lines[2:6] == [
        'backend: "python"',
        "max_batch_size: 0",
        'input [ { name: "images" data_type: TYPE_FP32 '
        "dims: [ -1, 2, 2, 3 ] optional: true } ]",
        'input [ { name: "image_bytes" data_type: TYPE_STRING '
        "dims: [ -1 ] optional: true } ]",
    ]
    outputs = [line.split('"')[1] for line in lines if "output" in line]
    assert outputs == [
        "probabilities",
        "class_evidence",
        "evidence_classes",
        "attention_map",
        "class_index",
        "class_name",
        "error",
        "top_classes",
        "top_probabilities",
        "overlay_bytes",
    ]
    assert not list((tmp_path / "r").glob("*.yaml"))


def test_versions_are_added_and_never_overwritten(version, tmp_path):
    root = tmp_path / "repository"
    write_repository(version, root)
    config = root / "rgb_1/config.pbtxt"
    config.write_text("# Mine.\n")
    with pytest.raises(FileExistsError, match="this version is there already"):
        write_repository(version, root)
    limits = Limits(images=2)
    write_repository(
        small_onnx.write(tmp_path / "models/rgb_1/8", limits=limits), root
    )
    assert sorted(p.name for p in (root / "rgb_1").iterdir()) == [
        "7",
        "8",
        "config.pbtxt",
    ]
    assert config.read_text() == "# Mine.\n"
    config.write_text(CONFIG)
    write_repository(
        small_onnx.write(tmp_path / "models/rgb_1/9", limits=limits), root
    )
    assert "max_batch_size: 2\n" in config.read_text()


@pytest.mark.parametrize("lacks", ["model.onnx", "labels.txt", "export.json"])
def test_what_is_no_version_with_onnx_is_refused(version, tmp_path, lacks):
    (version / lacks).unlink()
    with pytest.raises(ValueError, match=f"the format 'onnx'.*without {lacks}"):
        write_repository(version, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_other_arguments_are_refused(version, tmp_path):
    with pytest.raises(ValueError, match="`backend` must be one of"):
        write_repository(version, tmp_path / "r", backend="tensorrt")
    with pytest.raises(ValueError, match="the folder of an exported version"):
        write_repository(version.rename(version.with_name("new")), tmp_path)
