"""Figures that matplotlib's pyplot does not know of.

Of what `pyplot.figure` makes, pyplot keeps a list and which is the current
one, opens windows for it, and warns outside of the main thread. A figure of
the user's would so become another's neighbor. These belong to their caller.
"""

import io
import sys
from typing import Any

import matplotlib.figure
from matplotlib.backends.backend_agg import FigureCanvasAgg

# Beside PNG, what `%config InlineBackend.figure_formats` can ask for.
_OTHER_FORMATS = ("image/jpeg", "image/svg+xml", "application/pdf")


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows, without pyplot and any backend.

    Args:
        figsize: Width and height in inches.
    """

    def __init__(self, figsize: tuple[float, float]) -> None:
        super().__init__(figsize=figsize, layout="constrained")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes | None:
        """Renders the figure, as the last line of a notebook's cell."""
        if _are_shown_otherwise():
            return None
        content = io.BytesIO()
        self.savefig(content, format="png", bbox_inches="tight")
        return content.getvalue()


def _are_shown_otherwise() -> bool:
    """Whether a notebook shows all figures in a format that was asked for."""
    shell: Any = None
    if "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
    for name in _OTHER_FORMATS if shell is not None else ():
        try:
            shell.display_formatter.formatters[name].lookup_by_type(
                matplotlib.figure.Figure
            )
        except (AttributeError, KeyError):
            continue
        return True
    return False
