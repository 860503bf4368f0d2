"""Runs the command as `python -m keras_lficam`."""

from keras_lficam.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
