"""The data set `digits_in_photos`: where in the photo is the digit?

A handwritten digit lies somewhere in a crop of a photo, beside strokes and
patches that are no digit. The label says which digit, the mask says which
pixels, so that a heat map can be scored without any download: both sources
ship inside scikit-learn and scikit-image. Importing this module registers
the data set with TensorFlow Datasets.

Every picture depends on `(seed, split, index)` alone, not on the order or the
number of processes in which pictures are made.
"""

import functools
import importlib.resources
import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
import tensorflow_datasets as tfds
from PIL import Image

SEED = 20210503
SIZE = 64
NUM_EXAMPLES = {"train": 20_000, "validation": 1_000, "test": 2_000}

# The end of each split's share, both of a photo's columns and of a class's
# digits. The digits are taken in the order of their file, where each writer's
# stand together, so that test digits come from hands unseen in training.
SHARES = {"train": 0.6, "validation": 0.76, "test": 1.0}

PHOTOS = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "brick.png"),
    ("skimage.data", "camera.png"),
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "coffee.png"),
    ("skimage.data", "grass.png"),
    ("skimage.data", "gravel.png"),
    ("skimage.data", "hubble_deep_field.jpg"),
    ("skimage.data", "ihc.png"),
    ("skimage.data", "moon.png"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "retina.jpg"),
    ("skimage.data", "rocket.jpg"),
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
)

_FINENESS = 8

_DESCRIPTION = """
Photos of 64 x 64 pixels in which a handwritten digit was drawn, with the mask
of its strokes and their box. Beside the digit lie marks that are none: lines,
arcs, crosses, blobs, pieces of other photos. Digits and photos are those that
ship with scikit-learn and scikit-image; no digit and no pixel of a photo is
in two splits.
"""

_CITATION = """
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
@article{pedregosa2011scikit,
  author = {Pedregosa, F. and others},
  title = {Scikit-learn: Machine Learning in {P}ython},
  journal = {Journal of Machine Learning Research},
  volume = {12},
  pages = {2825--2830},
  year = {2011}
}
@article{vanderwalt2014scikit,
  author = {van der Walt, S. and others},
  title = {scikit-image: image processing in {P}ython},
  journal = {PeerJ},
  volume = {2},
  pages = {e453},
  year = {2014}
}
"""


class Box(NamedTuple):
    """A rectangle of pixels; the bottom and right edges are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, margin: int) -> "Box":
        top, left, bottom, right = self
        return Box(top - margin, left - margin, bottom + margin, right + margin)

    def touches(self, other: "Box") -> bool:
        return (
            self.top < other.bottom
            and other.top < self.bottom
            and self.left < other.right
            and other.left < self.right
        )


# --------------------------------------------------------------- sources


@functools.cache
def photos() -> tuple[Image.Image, ...]:
    """Reads the whole photos from the installed packages, as RGB."""
    images = []
    for package, name in PHOTOS:
        path = importlib.resources.files(package) / name
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        if name == "retina.jpg":  # leave out the black frame, halve the rest
            image = image.crop((216, 216, 1196, 1196)).reduce(2)
        images.append(image)
    return tuple(images)


@functools.cache
def photo_parts(split: str) -> tuple[Image.Image, ...]:
    """Cuts out the columns of each photo that belong to a split.

    The parts are images of their own, since a resize would otherwise read
    beyond its box into the columns of another split.
    """
    parts = []
    for photo in photos():
        left, right = _share(split, photo.width)
        parts.append(photo.crop((left, 0, right, photo.height)))
    return tuple(parts)


@functools.cache
def digit_ids(split: str) -> tuple[np.ndarray, ...]:
    """Positions in scikit-learn's digits that a split may use, per class."""
    labels = _digits().target
    members = [np.flatnonzero(labels == label) for label in range(10)]
    return tuple(ids[slice(*_share(split, len(ids)))] for ids in members)


def _share(split: str, total: int) -> tuple[int, int]:
    if split not in SHARES:
        raise ValueError(
            f"`split` must be one of {list(SHARES)}. Received: split={split!r}"
        )
    ends = [round(share * total) for share in SHARES.values()]
    place = list(SHARES).index(split)
    return ([0] + ends)[place], ends[place]


@functools.cache
def _digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits()


@functools.cache
def _ink(digit: int) -> np.ndarray:
    """Ink of a digit, about 0 to 1, `_FINENESS` samples to one of its cells."""
    cells = np.pad(_digits().images[digit] / 16, 2)
    ink = scipy.ndimage.zoom(
        cells, _FINENESS, order=3, mode="grid-constant", grid_mode=True
    )
    # A cell is an average: sharpening opens the loops that it closed.
    smooth = scipy.ndimage.gaussian_filter(ink, 0.28 * _FINENESS)
    wide = scipy.ndimage.gaussian_filter(ink, 1.3 * _FINENESS)
    return (smooth + 1.4 * (smooth - wide)).astype("float32")


# ------------------------------------------------------------- one picture


def compose(split: str, index: int, seed: int = SEED) -> dict[str, Any]:
    """Makes one picture.

    Args:
        split: `"train"`, `"validation"` or `"test"`; decides which digits
            and which parts of the photos may appear.
        index: Number of the picture in its split. The label is its last
            decimal, so that the classes are balanced.
        seed: Another seed gives another data set.

    Returns:
        A dictionary of `image` `(64, 64, 3)` uint8, `label`, `mask`
        `(64, 64, 1)` uint8 of 0 and 255, `box` (the tight `Box` of the mask),
        `marks` `(64, 64, 1)` uint8 (255 on what is drawn but no digit) and
        `digit` (the digit's position in scikit-learn's data set).

    Raises:
        ValueError: If `split` is none of the three.

    Examples:

        example = compose("test", 7)
        assert example["label"] == 7
    """
    ids = digit_ids(split)
    rng = np.random.default_rng([seed, list(SHARES).index(split), index])
    label = index % 10
    digit = int(rng.choice(ids[label]))
    strokes = _write(digit, rng)
    height, width = strokes.shape
    for _ in range(20):  # until the spot and a pen make the digit legible
        scene = _background(photo_parts(split), rng)
        top = int(rng.integers(SIZE - height + 1))
        left = int(rng.integers(SIZE - width + 1))
        box = Box(top, left, top + height, left + width)
        color, legible = _pen(scene, box.grown(2), rng)
        if legible:
            break
    marks = _add_marks(scene, box, color, photo_parts(split), rng)
    opacity = _on_canvas(strokes, box)
    _paint(scene, opacity * rng.uniform(0.88, 1.0), color)
    mask = opacity > 0.5
    return {
        "image": np.rint(np.clip(scene, 0, 255)).astype("uint8"),
        "label": label,
        "mask": _as_image(mask),
        "box": _tight_box(mask),
        "marks": _as_image(marks),
        "digit": digit,
    }


def _write(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a digit with a sharp pen: opacities, cut to where there are any."""
    ink = _ink(digit)
    rows = np.flatnonzero((ink > 0.5).any(axis=1))
    height = rng.uniform(23.0, 38.0)
    scale = (rows[-1] - rows[0] + 1) / height  # samples of ink per pixel
    angle = np.deg2rad(rng.uniform(-16, 16))
    shear = rng.uniform(-0.15, 0.15)
    aspect = rng.uniform(0.85, 1.15)
    threshold = rng.uniform(0.50, 0.62)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = scale * (
        np.array([[cos, -sin], [sin, cos]])
        @ np.array([[1.0, 0.0], [shear, aspect]])
    )
    center = (np.array(ink.shape) - 1) / 2
    canvas = np.array([SIZE, SIZE])
    drawn = scipy.ndimage.affine_transform(
        ink,
        matrix,
        offset=center - matrix @ ((canvas - 1) / 2),
        output_shape=(SIZE, SIZE),
        order=1,
    )
    # Across an edge the ink falls by about one per cell: so steep that the
    # edge is a pixel wide at any scale.
    steepness = _FINENESS / scale
    strokes = np.clip((drawn - threshold) * steepness + 0.5, 0, 1)
    top, left, bottom, right = _tight_box(strokes > 0)
    return strokes[top:bottom, left:right]


def _background(
    parts: tuple[Image.Image, ...], rng: np.random.Generator
) -> np.ndarray:
    """A crop of a photo at a random zoom, flipped and tinted at random."""
    scene = _crop(parts, SIZE, 44, 150, rng)
    if rng.random() < 0.5:
        scene = scene[:, ::-1]
    if rng.random() < 0.25:
        scene = scene[::-1]
    tint = rng.uniform(0.8, 1.2, 3)
    return np.clip(scene * tint, 0, 255).astype("float32")


def _crop(
    parts: tuple[Image.Image, ...],
    size: int,
    smallest: float,
    largest: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A square of a photo, its side as given, resized to `(size, size, 3)`."""
    part = parts[rng.integers(len(parts))]
    side = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    side = min(side, *part.size)
    left = rng.uniform(0, part.width - side)
    top = rng.uniform(0, part.height - side)
    window = (left, top, left + side, top + side)
    crop = part.resize((size, size), Image.Resampling.BILINEAR, window)
    return np.asarray(crop, "float32")


def _pen(
    scene: np.ndarray, box: Box, rng: np.random.Generator
) -> tuple[np.ndarray, bool]:
    """A color for a pen, and whether it stands out all over the box."""
    colors = rng.uniform(0, 255, (24, 3)) * rng.uniform(0.6, 1.0, (24, 1))
    colors[::2] = 255 - colors[::2]
    surround = _luminance(_cut(scene, box))
    distance = np.abs(_luminance(colors)[:, None] - surround.reshape(1, -1))
    contrast = np.quantile(distance, 0.08, axis=1)
    good = np.flatnonzero(contrast > 52)
    if good.size:
        return colors[good[0]], True
    return colors[np.argmax(contrast)], False


# -------------------------------------------------------- what is no digit


def _line(rng: np.random.Generator) -> list[np.ndarray]:
    return [np.array([[0.0, -1.0], [0.0, 1.0]])]


def _arc(rng: np.random.Generator) -> list[np.ndarray]:
    half = rng.uniform(0.5, 1.4)
    angles = np.linspace(-half, half, 9)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points[:, 0] -= points[:, 0].mean()
    return [points / np.abs(points).max()]


def _wave(rng: np.random.Generator) -> list[np.ndarray]:
    x = np.linspace(-1, 1, 15)
    bend = rng.uniform(0.15, 0.4) * np.sin(x * rng.uniform(3, 7))
    return [np.stack([bend, x], axis=1)]


def _chevron(rng: np.random.Generator) -> list[np.ndarray]:
    tip = rng.uniform(0.4, 0.8) * rng.choice([-1, 1])
    return [np.array([[-tip, -0.9], [tip, 0.0], [-tip, 0.9]])]


def _cross(rng: np.random.Generator) -> list[np.ndarray]:
    reach = rng.uniform(0.5, 0.8)
    slope = np.array([[-reach, -0.8], [reach, 0.8]])
    return [slope, slope * [1, -1]]


def _bars(rng: np.random.Generator) -> list[np.ndarray]:
    bar = np.array([[0.0, -0.9], [0.0, 0.9]])
    return [bar + [offset, 0.0] for offset in (-0.55, 0.55)]


def _dots(rng: np.random.Generator) -> list[np.ndarray]:
    spots = rng.uniform(-0.9, 0.9, (rng.integers(2, 6), 2))
    return [np.stack([spot, spot]) for spot in spots]


# Lists of polylines in a square from -1 to 1, as `(row, column)`. All lie
# flatter than a digit stands: a steep line would be a one.
_STROKES: tuple[Callable[[np.random.Generator], list[np.ndarray]], ...] = (
    _line,
    _arc,
    _wave,
    _chevron,
    _cross,
    _bars,
    _dots,
)


def _add_marks(
    scene: np.ndarray,
    digit: Box,
    color: np.ndarray,
    parts: tuple[Image.Image, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws strokes, blobs and patches clear of the digit; says where."""
    wanted = rng.integers(2, 6)
    taken = [digit.grown(2)]
    marked = np.zeros((SIZE, SIZE), bool)
    for size in np.geomspace(34, 7, 40) * rng.uniform(0.7, 1.1, 40):
        side = round(size)
        top, left = rng.integers(-side // 4, SIZE - side + side // 4 + 1, 2)
        box = Box(int(top), int(left), int(top) + side, int(left) + side)
        if any(box.touches(other) for other in taken):
            continue
        taken.append(box.grown(1))
        opacity = _on_canvas(_shape(side, rng) * rng.uniform(0.88, 1.0), box)
        dice = rng.random()
        if dice < 0.15:
            patch = _crop(parts, side, 1.5 * side, 3 * side, rng)
            _paint(scene, opacity, _on_canvas(patch, box))
        elif dice < 0.6:
            _paint(scene, opacity, color + rng.normal(0, 8, 3))
        else:
            _paint(scene, opacity, _pen(scene, box, rng)[0])
        marked |= opacity > 0.5
        if len(taken) > wanted:
            break
    return marked


def _shape(side: int, rng: np.random.Generator) -> np.ndarray:
    """Opacities `(side, side)` of a stroke, a blob or a polygon."""
    grid = np.moveaxis(np.indices((side, side)), 0, -1) - (side - 1) / 2
    if rng.random() < 0.65:
        pen = rng.uniform(1.3, 3.2)
        reach = side / 2 - pen - 0.5
        tilt = np.deg2rad(rng.uniform(-25, 25))
        lines = _STROKES[rng.integers(len(_STROKES))](rng)
        distance = np.min(
            [_distance(grid, _turned(line, tilt) * reach) for line in lines],
            axis=0,
        )
        return np.clip(pen - distance + 0.5, 0, 1)
    reach = side / 2 - 0.5
    if rng.random() < 0.5:
        radii = rng.uniform(0.45, 1.0, 2) * reach
        grid = _turned(grid, rng.uniform(0, np.pi))
        inside = (1 - np.linalg.norm(grid / radii, axis=-1)) * radii.min()
    else:
        corners = rng.integers(3, 7)
        angles = np.arange(corners) + rng.uniform(-0.3, 0.3, corners)
        angles = 2 * np.pi * (angles / corners + rng.random())
        points = reach * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        edges = np.roll(points, -1, axis=0) - points
        normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        offsets = np.sum(points * normals, axis=1)
        inside = np.min(
            np.abs(offsets) - grid @ (normals.T * np.sign(offsets)), axis=-1
        )
    return np.clip(inside + 0.5, 0, 1)


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, -sin], [sin, cos]])


def _distance(grid: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest point of a polyline."""
    start, step = line[:-1], np.diff(line, axis=0)  # (segments, 2)
    away = grid[:, :, None] - start  # (h, w, segments, 2)
    along = np.sum(away * step, axis=-1) / np.maximum(
        np.sum(step**2, axis=-1), 1e-6
    )
    away = away - np.clip(along, 0, 1)[..., None] * step
    return np.sqrt(np.sum(away**2, axis=-1).min(axis=-1))


# ------------------------------------------------------------------ pixels


def _paint(scene: np.ndarray, opacity: np.ndarray, color: np.ndarray) -> None:
    scene += opacity[:, :, None] * (color - scene)


def _on_canvas(patch: np.ndarray, box: Box) -> np.ndarray:
    """Lays a patch on an empty canvas; what is outside is cut off."""
    canvas = np.zeros((SIZE, SIZE, *patch.shape[2:]), "float32")
    shown = patch[max(-box.top, 0) :, max(-box.left, 0) :]
    target = _cut(canvas, box)
    target[:] = shown[: target.shape[0], : target.shape[1]]
    return canvas


def _cut(scene: np.ndarray, box: Box) -> np.ndarray:
    return scene[max(box.top, 0) : box.bottom, max(box.left, 0) : box.right]


def _luminance(colors: np.ndarray) -> np.ndarray:
    return colors @ np.array([0.299, 0.587, 0.114])


def _as_image(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 255, 0).astype("uint8")[:, :, None]


def _tight_box(mask: np.ndarray) -> Box:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return Box(
        int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    )


# ------------------------------------------------------------- the data set


class DigitsInPhotos(tfds.core.GeneratorBasedBuilder):
    """Builder of `digits_in_photos`; `tfds.load` finds it by that name."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features.FeaturesDict(
                {
                    "image": features.Image(
                        shape=(SIZE, SIZE, 3), encoding_format="png"
                    ),
                    "label": features.ClassLabel(names=list("0123456789")),
                    "mask": features.Image(
                        shape=(SIZE, SIZE, 1), encoding_format="png"
                    ),
                    "bbox": features.BBoxFeature(),
                }
            ),
            supervised_keys=("image", "label"),
            citation=_CITATION,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # there is nothing to download
        return {split: self._generate_examples(split) for split in NUM_EXAMPLES}

    def _generate_examples(
        self, split: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for index in range(NUM_EXAMPLES[split]):
            example = compose(split, index)
            top, left, bottom, right = (edge / SIZE for edge in example["box"])
            yield (
                f"{index:05d}",
                {
                    "image": example["image"],
                    "label": example["label"],
                    "mask": example["mask"],
                    "bbox": tfds.features.BBox(top, left, bottom, right),
                },
            )
