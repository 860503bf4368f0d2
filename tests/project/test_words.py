"""The field's term, and not a word of our own; see CONTRIBUTING.md."""

import io
import json
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# What is not written, in text or in code, and what is written instead.
BANNED = {
    r"right answers?|right (more|less|most) often": "accuracy",
    r"\bnets?\b(?!\.)": "model, architecture or network",
    r"\bkinds? of (nets?|models?)\b": "architecture",
    r"\bslopes?\b": "gradient",
    r"\bstretch(ed|es|ing)?\b": "min-max normalized, resized",
    r"\banew\b": "again; rebuilt, re-initialized",
    r"\bfloors?\b(?!\()": "lower bound",
    r"\bways? out\b": "To fix this:",
    r"\btruly\b": "label:",
    r"\bby a hair\b|not seen to (be|do)|leaves? out zero": "significance",
    r"where space is last seen": "after the last convolutional feature map",
    r"(goes|go|going|went) on (from|with the same weights)": "resumes",
    r"\bbrakes?\b": "bottleneck",
    r"\baveraged weights\b": "EMA of the weights",
    r"\bshares of the (label|class)": "soft labels",
    r"\bnothing more\b": "none",
    r"\b(drawn|made) anew\b": "re-initialized, rebuilt",
    r"look(s|ed) through": "read; scanned",
    r"\bdraws? an? (heat )?map\b": "computes a map, renders a figure",
    r"sanity of (a|the) map": "model-parameter randomization test",
    r"pictures?": "image; figure, overlay",
}
# Names in code.
BANNED_NAMES = {
    "asked": "what it holds",
    "begun": "restored",
    "cut": "split, crop",
    "joined": "what it holds",
    "place": "location, index, path",
    "places": "locations, indices, paths",
    "prepared": "what it holds",
    "replay": "clone",
    "subject": "model",
}
# What `fit`, a source or a comparison is asked for, in modules of before.
BEFORE = {
    "comparison.py",
    "explain.py",
    "files.py",
    "folder.py",
    "train.py",
}
# Where a word is right all the same: file, word and reason.
ALLOWED = [
    ("*", r'[`"\']stretch[`"\']', "a value of `resizing`, named as it resizes"),
    (
        "benchmarks/evidence/*",
        r"stretched",
        "an argument in the recorded protocol of the evidence",
    ),
    ("docs/architecture.md", r"ground floor", "the lowest rooms of the tree"),
    ("*.py", r"\.floor", "a function of NumPy and Keras"),
    ("*", r"02_train_on_your_own_pictures", "a file to which links lead"),
    ("*", r"\bpicture\.py", "a script of the evidence"),
    (
        "benchmarks/evidence/*",
        r'"pictures"',
        "a column of CSV files and a key of the recorded protocol",
    ),
    ("CHANGELOG.md", r"`[^`\n]*picture[^`\n]*`", "names of before"),
]


def pages():
    """Yields path and text of what people read, notebooks cell by cell."""
    yield from (
        (path, path.read_text())
        for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md")
        for path in sorted(ROOT.glob(pattern))
    )
    for path in sorted(ROOT.glob("tutorials/*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                yield path, "".join(cell["source"])
            for output in cell.get("outputs", []):
                yield path, "".join(output.get("text", []))


def sources():
    """Yields path and text of modules of the package and of benchmarks."""
    for folder in ("keras_lficam", "keras_lficam_command", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, path.read_text()


def found(path, text):
    """Lines of a text with a banned word that is not allowed there."""
    for file, word, _ in ALLOWED:
        if path.match(file):
            text = re.sub(word, "", text)
    for pattern, instead in BANNED.items():
        for match in re.finditer(pattern, text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{path.name}:{line}: {match.group()!r}; {instead}"


def found_names(path, text):
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = token.string.strip("_").lower()
        if name == "asked" and path.name in BEFORE:
            continue
        if token.type == tokenize.NAME and name in BANNED_NAMES:
            line, instead = token.start[0], BANNED_NAMES[name]
            yield f"{path.name}:{line}: {token.string!r}; {instead}"


def test_pages_and_tutorials_use_the_terms_of_the_field():
    seen = list(pages())
    assert len(seen) > 100
    assert not "\n".join(word for page in seen for word in found(*page))


def test_code_uses_the_terms_of_the_field():
    seen = list(sources())
    assert len(seen) > 100
    assert not "\n".join(word for one in seen for word in found(*one))
    # Benchmarks write columns and files whose names are older.
    package = [one for one in seen if "benchmarks" not in one[0].parts]
    assert not "\n".join(word for one in package for word in found_names(*one))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The nets of five seeds", 1),
        ("a floor, and np.floor(x)", 1),
        ('resizing="stretch" is not stretched', 1),
        ("picture.py of read_pictures", 1),
        ("The model with the higher accuracy", 0),
    ],
)
def test_a_banned_word_is_seen(text, count):
    assert len(list(found(pathlib.Path("a.py"), text))) == count


def test_a_banned_name_is_seen():
    text = "place = begun(1)  # In place of that.\nself._asked = 'cut'\n"
    text += "class Replay:\n    _CUT = 1\n"
    assert len(list(found_names(pathlib.Path("a.py"), text))) == 5
