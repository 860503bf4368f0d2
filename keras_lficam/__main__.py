"""Runs the command as `python -m keras_lficam`.

Python imports the package first, and that imports Keras. The script
`keras-lficam` and `python -m keras_lficam_command` start without it.
"""

from keras_lficam.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
