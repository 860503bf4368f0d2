"""What a classifier says of images, and why, in one forward pass.

    view = keras_lficam.explanation_view(model, top=3)
    view.predict(images)["class_evidence"]  # (B, h, w, 3), signed

`explanation_view` computes tensors, in graphs and exports, too; `explain`
makes an `Explanation` of them, with maps at the size of the images.
"""

from keras_lficam.explanation.explaining import explain
from keras_lficam.explanation.result import Explanation
from keras_lficam.explanation.view import ExplanationView, explanation_view

__all__ = ["Explanation", "ExplanationView", "explain", "explanation_view"]
