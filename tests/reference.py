"""LFI-CAM written a second time: float64 NumPy, loops, no Keras."""

import numpy as np


def stretch(x):
    """Min-max of every channel of every image; a constant one becomes 0."""
    out = np.zeros_like(x, dtype="float64")
    for index in np.ndindex(x.shape[0], x.shape[3]):
        channel = x[index[0], :, :, index[1]].astype("float64")
        low, high = channel.min(), channel.max()
        if high > low:
            out[index[0], :, :, index[1]] = (channel - low) / (high - low)
    return out


def bilinear(image, rows, columns, center=None, stride=None):
    """Samples `(H, W)` at the centers of `rows x columns` cells.

    These are spread evenly, or else the center of the first pixel of `image`
    is at the cell `center` on both axes, the next a `stride` from it.
    """
    height, width = image.shape
    out = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            if center is None:
                y = (i + 0.5) * height / rows - 0.5
                x = (j + 0.5) * width / columns - 0.5
            else:
                y, x = (i - center) / stride, (j - center) / stride
            y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (x - left) * (
                image[top, right] - image[top, left]
            )
            lower = image[bottom, left] + (x - left) * (
                image[bottom, right] - image[bottom, left]
            )
            out[i, j] = upper + (y - top) * (lower - upper)
    return out


def masks(images, features):
    rows, columns = features.shape[1:3]
    gray = np.stack(
        [
            bilinear(image.astype("float64").mean(axis=-1) / 255, rows, columns)
            for image in images
        ]
    )
    return stretch(features) * gray[..., np.newaxis]


def convolution(x, kernel):
    """Slides `(k, k, in, out)` over `(B, h, w, in)` padded with zeros."""
    size = kernel.shape[0]
    margin = size // 2
    padded = np.pad(x, ((0, 0), (margin,) * 2, (margin,) * 2, (0, 0)))
    rows, columns = x.shape[1:3]
    out = np.zeros((*x.shape[:3], kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = padded[:, i : i + size, j : j + size, :]
            out[:, i, j, :] = np.tensordot(patch, kernel, axes=3)
    return out


def normalization(x, gamma, beta, mean, variance, epsilon=1e-3):
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def softmax(x):
    grown = np.exp(x - x.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def importance(
    images, features, steps, relu_after, training=False, pooled=False
):
    """Applies the network.

    `steps` holds kernel, gamma, beta, moving mean and moving variance of each
    convolution; `relu_after` the numbers, from 1, of those with a ReLU. If
    `pooled`, the masks are averaged over space first.
    """
    x = masks(images, features)
    if pooled:
        x = x.mean(axis=(1, 2), keepdims=True)
    for number, (kernel, gamma, beta, mean, variance) in enumerate(steps, 1):
        x = convolution(x, kernel)
        if training:
            mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        x = normalization(x, gamma, beta, mean, variance)
        if number in relu_after:
            x = np.maximum(x, 0)
    return softmax(x.mean(axis=(1, 2)))


def activation_map(features, weights):
    """Weighs channels by `(B, C)`, or each element by `(B, h, w, C)`."""
    weighted = np.zeros((*features.shape[:3], 1))
    for image in range(features.shape[0]):
        for channel in range(features.shape[3]):
            weighted[image, ..., 0] += (
                weights[image, ..., channel] * features[image, ..., channel]
            )
    return stretch(np.maximum(weighted, 0))


def attend(features, attention_map):
    return features + attention_map * features
