"""Files that are complete or not there, whatever happens to the process."""

import ast
import pathlib
import signal
import subprocess
import sys

import pytest

import keras_lficam._files
from keras_lficam._files import atomic_folder, atomic_write

PACKAGE = pathlib.Path(keras_lficam.__file__).parent
# Loads the module alone: Keras takes seconds to start.
KILLED = """
import os, pathlib, runpy, signal, sys
write = runpy.run_path(sys.argv[1])[sys.argv[2]]
with write(pathlib.Path(sys.argv[3])) as partial:
    if partial.is_dir():
        partial /= "one.txt"
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_in(function, path):
    source = keras_lficam._files.__file__
    done = subprocess.run(
        [sys.executable, "-c", KILLED, source, function, str(path)]
    )
    assert done.returncode == -signal.SIGKILL


def test_file_is_the_old_one_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    killed_in("atomic_write", path)
    assert not path.exists()
    path.write_text("old")
    killed_in("atomic_write", path)
    assert path.read_text() == "old"
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.suffix == ".txt"
    assert path.read_text() == "new"
    # What the killed ones left was replaced.
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_not_there_until_it_is_complete(tmp_path):
    path = tmp_path / "a"
    killed_in("atomic_folder", path)
    assert not path.exists()
    with atomic_folder(path) as partial:
        (partial / "one.txt").write_text("one")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["one.txt"]
    # What the killed one left was replaced.
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [(28, "free some space"), (36, "another folder or a shorter name")],
)
def test_failure_leaves_the_old_file_and_says_what_to_do(
    tmp_path, number, message
):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise OSError(number, "It is so")

    with pytest.raises(OSError, match=f"a.txt: the file could .*{message}"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_name_of_the_greatest_length_is_written(tmp_path):
    path = tmp_path / ("é" * 125 + ".txt")  # 254 bytes of 255.
    with atomic_write(path) as partial:
        partial.write_text("all")
    assert path.read_text() == "all"


def test_everything_that_is_written_is_written_beside_first():
    """Finds calls that write a file under the name that it keeps."""
    writers = {"savefig", "write_text", "write_bytes", "to_csv"}
    writers |= {"values_to_csv", "save", "savez"}
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        # An export is a folder, which is renamed when it is complete.
        if path.parent.name == "serving":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            words = ast.unparse(node)
            opened = name == "open" and ("'w" in words or "'a" in words)
            if name in writers or opened:
                seen += 1
                assert "partial" in words or words in MEANT, (path, words)
    assert seen > 15


# They call `whole` themselves, or write into memory or such a file.
MEANT = {
    "np.savez(file, about=np.array(json.dumps(about)), **arrays)",
    "state.save(state.State(step, finished, self.rows, values, list(metrics)),"
    " self.path)",
    "self.save()",
    "log.save()",
    "self.savefig(content, format='png', bbox_inches='tight')",
    "PIL.Image.fromarray(pixels).save(content, 'JPEG', quality=_QUALITY, "
    "optimize=True)",
}
