"""The report of a run: one page that holds all that there is to say of it.

Examples:

    keras_lficam.reporting.report("runs/mine")
"""

from keras_lficam.reporting.running import report

__all__ = ["report"]
