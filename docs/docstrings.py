"""Shows the examples of docstrings as code on the page of reference."""

import re

import griffe


class ExamplesAsCode(griffe.Extension):
    """Fences what a section Examples indents, for Markdown to take as code."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Changes a docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"(?<=Examples:\n)(?:(?: {4}.*)?\n?)+",
                _fenced,
                obj.docstring.value,
            )


def _fenced(match: re.Match[str]) -> str:
    code = match[0].rstrip()
    if code.lstrip().startswith(">>>"):
        return match[0]
    return f"    ```python\n{code}\n    ```\n\n"
