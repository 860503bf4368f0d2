"""Runs the command as `python -m keras_lficam_command`."""

from keras_lficam_command import main

if __name__ == "__main__":
    raise SystemExit(main())
