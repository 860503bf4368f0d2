"""Shows many explained images on one page."""

import pathlib
import warnings
from typing import TYPE_CHECKING, Any

from keras_lficam._files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from matplotlib.figure import Figure

# More would be too small on a screen, or a file too tall to scroll through.
MOST = 48
_COLUMNS = 4
# Pixels of the square that an image is fitted into.
_SIDE = 192
# Characters of a line that fit above a cell.
_LETTERS = 34


class ContactSheet:
    """Collects small copies of images and overlays, `MOST` of each at most."""

    def __init__(self) -> None:
        self._cells: list[tuple[np.ndarray, str]] = []
        self.count = 0

    def add(
        self,
        pixels: "np.ndarray",
        overlay: "PIL.Image.Image",
        name: str,
        title: str,
    ) -> None:
        """Adds an image `(H, W, 3)`, its overlay, and two lines."""
        import numpy as np
        import PIL.Image

        self.count += 1
        if len(self._cells) < MOST:
            image = PIL.Image.fromarray(pixels.astype("uint8"))
            cell = np.concatenate([_fitted(image), _fitted(overlay)], axis=1)
            lines = f"{_shortened(name)}\n{_shortened(title)}"
            self._cells.append((cell, lines))

    def described(self) -> str:
        """Says how many images it shows; nothing of less than two."""
        if self.count > MOST:
            return f"the first {MOST} of {self.count} images"
        return f"all {self.count} images" if self.count > 1 else ""

    def write(self, path: pathlib.Path) -> None:
        """Writes the page."""
        from keras_lficam import _figures

        rows = -(-len(self._cells) // _COLUMNS)
        columns = min(_COLUMNS, len(self._cells))
        figure = _figures.Figure((2.7 * columns, 1.75 * rows + 0.1))
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, (cell, lines) in zip(
            axes.flat[: len(self._cells)], self._cells, strict=True
        ):
            axis.imshow(cell)
            axis.set_title(lines, fontsize=7, parse_math=False)
        with atomic_write(path) as partial:
            rendered(figure, 140).save(partial)


def rendered(figure: "Figure", dpi: float) -> "PIL.Image.Image":
    """Renders a figure, without warnings, which tell a user nothing."""
    import numpy as np
    import PIL.Image
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        # A narrow image leaves no room for the layout.
        warnings.filterwarnings("ignore", message="constrained_layout not")
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    return PIL.Image.fromarray(pixels).convert("RGB")


def _fitted(image: "PIL.Image.Image") -> "np.ndarray":
    """Resizes an image to fit into a square, with white around it."""
    import numpy as np
    import PIL.ImageOps

    return np.asarray(PIL.ImageOps.pad(image, (_SIDE, _SIDE), color="white"))


def _shortened(line: str) -> str:
    """Keeps the end of a long line, where paths and classes differ."""
    return line if len(line) <= _LETTERS else f"...{line[3 - _LETTERS :]}"
