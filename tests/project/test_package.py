"""What a package index gets: source distribution, wheel and description."""

import email
import pathlib
import re
import subprocess
import tarfile
import tomllib
import zipfile

import pytest

import keras_lficam

ROOT = pathlib.Path(__file__).parents[2]
NAME = f"keras_lficam-{keras_lficam.__version__}"
SHIPPED = {"model.keras", "labels.txt"}
MEGABYTE = 1_000_000


def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def described():
    """The README as an index shows it: by the settings of the build."""
    hook = settings()["tool"]["hatch"]["metadata"]["hooks"]
    text = (ROOT / "README.md").read_text()
    for each in hook["fancy-pypi-readme"]["substitutions"]:
        new = each["replacement"].replace(
            "$HFPR_VERSION", keras_lficam.__version__
        )
        text = re.sub(each["pattern"], new, text)
    return text


def test_every_link_of_the_description_leads_to_a_file_of_this_version():
    source = settings()["project"]["urls"]["Source"]
    owner_and_name = source.removeprefix("https://github.com/")
    version = f"v{keras_lficam.__version__}"
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", described())
    assert len(links) > 10
    ours = 0
    for image, link in links:
        assert link.startswith("https://"), link
        if image:
            home = f"https://raw.githubusercontent.com/{owner_and_name}/"
        else:
            home = f"{source}/blob/"
        if owner_and_name in link:
            ours += 1
            path = link.removeprefix(f"{home}{version}/")
            assert (ROOT / path.split("#")[0]).exists(), link
    assert ours > 10


def test_all_addresses_lead_to_one_repository():
    urls = settings()["project"]["urls"]
    for name, address in urls.items():
        assert address.startswith(urls["Source"]), name
    # Elsewhere the address must stand again, and is the same.
    citation = (ROOT / "CITATION.cff").read_text()
    assert f'repository-code: "{urls["Source"]}"\n' in citation


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "keras_lficam", "keras_lficam_command"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    return set(listed.split())


@pytest.mark.package
def test_wheel_holds_the_package_and_the_shipped_model():
    path = ROOT / "dist" / f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = email.message_from_bytes(
            wheel.read(f"{NAME}.dist-info/METADATA")
        )
    shipped = {f"keras_lficam/shipped/{name}" for name in SHIPPED}
    assert names == tracked() | shipped
    assert metadata["Version"] == keras_lficam.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload().strip() == described().strip()


@pytest.mark.package
def test_source_distribution_is_what_a_wheel_is_built_from():
    path = ROOT / "dist" / f"{NAME}.tar.gz"
    with tarfile.open(path) as source:
        names = {name.removeprefix(f"{NAME}/") for name in source.getnames()}
    rest = names - tracked()
    assert names - rest == tracked()
    assert rest == {
        *(f"saved_models/digits_in_photos/{name}" for name in SHIPPED),
        ".gitignore",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "pyproject.toml",
    }
    assert path.stat().st_size < 1 * MEGABYTE
