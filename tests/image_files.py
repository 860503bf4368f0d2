"""Image files that cannot be read."""

import numpy as np
import PIL.Image


def damaged(folder, pixels):
    """Writes files that cannot be read; the reason by the name."""
    PIL.Image.fromarray(np.tile(pixels, (9, 9, 1))).save(folder / "good.jpg")
    jpeg = (folder / "good.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    PIL.Image.fromarray(pixels).save(folder / "good.png")
    png = (folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(png[: len(png) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("This is not an image.")
    PIL.Image.fromarray(np.eye(3, dtype="float32")).save(folder / "float.tif")
    PIL.Image.fromarray(np.full((2, 2), 70000, "int32")).save(folder / "i.tif")
    (folder / "folder.png").mkdir()
