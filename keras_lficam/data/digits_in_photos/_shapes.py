"""Shapes and pixels from which `digits_in_photos` is drawn."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Sizes of what is drawn, in pixels.

    Attributes:
        size: Side of an image.
        digit: Lowest and highest digit, before it is turned and sheared.
        photo: Smallest and largest side of the crop of a photo.
        mark: Largest and smallest side of a mark.
        pen: Width of the strokes of marks, over that of 64x64 images.
    """

    size: int = 64
    digit: tuple[float, float] = (23.0, 38.0)
    photo: tuple[float, float] = (44, 150)
    mark: tuple[float, float] = (34, 7)
    pen: float = 1.0


SMALL = Canvas()
# Two digits fit beside each other or one above the other.
FOR_TWO = Canvas(digit=(23.0, 28.0))
# Of more of a photo, and with digits that cover less of the image.
LARGE = Canvas(
    size=224, digit=(46.0, 90.0), photo=(110, 300), mark=(80, 16), pen=2.2
)


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


def paint(scene: np.ndarray, opacity: np.ndarray, color: np.ndarray) -> None:
    scene += opacity[:, :, None] * (color - scene)


def on_canvas(patch: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Lays a patch on an empty canvas; what is outside is cut off."""
    canvas = np.zeros((size, size, *patch.shape[2:]), "float32")
    shown = patch[max(-box.top, 0) :, max(-box.left, 0) :]
    target = crop(canvas, box)
    target[:] = shown[: target.shape[0], : target.shape[1]]
    return canvas


def crop(scene: np.ndarray, box: Box) -> np.ndarray:
    return scene[max(box.top, 0) : box.bottom, max(box.left, 0) : box.right]


def luminance(colors: np.ndarray) -> np.ndarray:
    gray: np.ndarray = colors @ np.array([0.299, 0.587, 0.114])
    return gray


def mask_image(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 255, 0).astype("uint8")[:, :, None]


def tight_box(mask: np.ndarray) -> Box:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return Box(
        int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    )


def random_shape(
    side: int, rng: np.random.Generator, scale: float = 1.0
) -> np.ndarray:
    """Opacities `(side, side)` of a stroke, a blob or a polygon."""
    grid = np.moveaxis(np.indices((side, side)), 0, -1) - (side - 1) / 2
    if rng.random() < 0.65:
        pen = scale * rng.uniform(1.3, 3.2)
        reach = side / 2 - pen - 0.5
        tilt = np.deg2rad(rng.uniform(-25, 25))
        lines = _STROKES[rng.integers(len(_STROKES))](rng)
        inside = pen - np.min(
            [_distance(grid, _turned(line, tilt) * reach) for line in lines],
            axis=0,
        )
        return _opacity(inside)
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
    return _opacity(inside)


def _opacity(inside: np.ndarray) -> np.ndarray:
    """From how far inside a shape each pixel is, below 0 outside."""
    opacity: np.ndarray = np.clip(inside + 0.5, 0, 1)
    return opacity


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    turned: np.ndarray = points @ np.array([[cos, -sin], [sin, cos]])
    return turned


def _distance(grid: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest point of a polyline."""
    start, step = line[:-1], np.diff(line, axis=0)  # (segments, 2)
    away = grid[:, :, None] - start  # (h, w, segments, 2)
    along = np.sum(away * step, axis=-1) / np.maximum(
        np.sum(step**2, axis=-1), 1e-6
    )
    away = away - np.clip(along, 0, 1)[..., None] * step
    distance: np.ndarray = np.sqrt(np.sum(away**2, axis=-1).min(axis=-1))
    return distance


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
    diagonal = np.array([[-reach, -0.8], [reach, 0.8]])
    return [diagonal, diagonal * [1, -1]]


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
