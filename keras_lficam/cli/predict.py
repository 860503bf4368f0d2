"""`keras-lficam predict`: asks a server about images."""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from keras_lficam._files import atomic_write
from keras_lficam.cli import _output, _words

if TYPE_CHECKING:
    from keras_lficam.serving.client import Client


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    predict = commands.add_parser(
        "predict",
        help="ask a server about images",
        description="Sends JPEG and PNG images to a model in a server, "
        "prints class and probability of each, and writes the image with "
        "its heat map over it, as NAME_overlay.png.",
    )
    predict.add_argument(
        "--url", required=True, metavar="URL", help=_words.SERVERS
    )
    _words.add_server_options(predict)
    predict.add_argument(
        "images", type=pathlib.Path, metavar="IMAGE", nargs="+"
    )
    predict.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="FOLDER",
        help="folder for the overlays; files in it are never overwritten "
        "(default: none are written)",
    )
    predict.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from keras_lficam.serving.client import Client, ServerError, printable

    if arguments.output is not None:
        _output.make_folder(arguments.output)
    names = _output.overlay_names(arguments.images)
    client = Client(
        arguments.url,
        arguments.model,
        arguments.timeout,
        protocol=arguments.protocol,
    )
    failed = 0
    try:
        for path in _output.progress(arguments.images, "image"):
            try:
                print(_ask(client, path, arguments.output, names), flush=True)
            except (ValueError, OSError) as error:
                failed += 1
                print(printable(str(error)), file=sys.stderr)
    except ServerError as error:
        raise ValueError(str(error)) from None
    finally:
        client.close()
    if failed:
        print(
            f"{failed} of {len(arguments.images)} images not answered",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _ask(
    client: "Client",
    path: pathlib.Path,
    folder: pathlib.Path | None,
    names: Mapping[pathlib.Path, pathlib.Path],
) -> str:
    """Asks about one image; returns its line of the report."""
    from keras_lficam.serving.client import printable

    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    target = None if folder is None else folder / names[path]
    if target is not None and target.exists():
        raise ValueError(
            f"{path}: {target} exists. To fix this: give another folder"
        )
    answer = client.image(path.read_bytes())
    if answer.error:
        raise ValueError(f"{path}: {answer.error}")
    percent = round(100 * answer.probability)
    line = printable(f"{path}: {answer.class_name} ({percent} %)")
    if target is None:
        return line
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as partial:
        partial.write_bytes(answer.overlay)
    return f"{line}, {printable(str(target))}"
