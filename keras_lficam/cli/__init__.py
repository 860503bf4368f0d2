"""The command `keras-lficam`, a file a command.

TensorFlow takes seconds to start, so arguments are checked before it is
imported, and each command imports what it needs.
"""

import argparse
import sys

import keras_lficam
from keras_lficam.cli import (
    _output,
    compare,
    demo,
    evaluate,
    explain,
    export,
    predict,
    report,
    serve_check,
    train,
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and gives its exit code.

    It is 0 if all went well, 1 if some images could not be explained, 2 if
    the command was refused, 130 if it was interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(words)
    options.words = words
    try:
        return int(options.run(options))
    except OSError as error:
        return _refused(options, _output.reason(error))
    except ValueError as error:
        return _refused(options, error)
    except ModuleNotFoundError:
        raise  # Of this package or another: no word of ours.
    except ImportError as error:  # Says what to install.
        return _refused(options, error)
    except KeyboardInterrupt as stop:
        # A command that writes says what it has written.
        written = f"; {stop}" if str(stop) else ""
        print(f"\nStopped{written}.", file=sys.stderr)
        return 130


def _refused(options: argparse.Namespace, reason: object) -> int:
    print(f"keras-lficam {options.command}: {reason}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-lficam",
        description="Classifiers that show what they looked at.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"keras-lficam {keras_lficam.__version__}",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (
        demo,
        train,
        report,
        explain,
        evaluate,
        compare,
        export,
        predict,
        serve_check,
    ):
        command.add(commands)
    return parser
