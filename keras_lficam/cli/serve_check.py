"""`keras-lficam serve-check`: asks a live server what it should know."""

import argparse
import pathlib

from keras_lficam.cli import _words


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    check = commands.add_parser(
        "serve-check",
        help="check the answers of a live server",
        description="Asks a model in a server for class and evidence of an "
        "image in every way that it takes, with damaged and wrong ones "
        "among them.",
    )
    check.add_argument("url", metavar="URL", help=_words.SERVERS)
    _words.add_server_options(check)
    check.add_argument(
        "--saved-model",
        type=pathlib.Path,
        metavar="FOLDER",
        help="folder of the version that is served, to compare answers with",
    )
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from keras_lficam.serving.checks import check
    from keras_lficam.serving.client import Client

    saved = arguments.saved_model
    if saved is not None and not (saved / "saved_model.pb").is_file():
        raise ValueError(f"{saved}: this is no folder of a SavedModel")
    client = Client(
        arguments.url,
        arguments.model,
        arguments.timeout,
        protocol=arguments.protocol,
    )
    failed = 0
    try:
        for question, fault in check(client, saved):
            print(f"{'NO ' if fault else 'yes'}  {question}", flush=True)
            if fault:
                failed += 1
                print(f"     {fault}", flush=True)
    finally:
        client.close()
    return 1 if failed else 0
