"""Opens the page of a run in a browser: widths, colors, print."""

import pytest
from report_runs import EVIL, classifier, source_of, write_run

from keras_lficam import reporting

pytestmark = pytest.mark.site
LABELS = {
    "train": [0, 1, 2, 3] * 3,
    "validation": [0, 1, 2, 3],
    "test": [0, 1, 2, 3, 0],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    source = source_of(LABELS, ["cat", EVIL, "x" * 200, "two words"])
    write_run(folder, source, classifier(4))
    return reporting.report(folder, data=source)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])
def test_the_report_is_no_wider_than_the_window(width, scheme, page, chromium):
    faults = []
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    opened = context.new_page()
    opened.on("console", lambda said: faults.append(said.text))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("dialog", lambda dialog: faults.append(dialog.message))
    opened.on(
        "request",
        lambda request: (
            request.url.startswith(("data:", page.as_uri()))
            or faults.append(f"asks {request.url}")
        ),
    )
    opened.goto(page.as_uri(), wait_until="load")
    wide = opened.evaluate(
        "[document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert wide[0] <= wide[1]
    assert opened.evaluate(
        "[...document.images].every(image => image.naturalWidth > 50)"
    )
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    context.close()
    assert not faults


def test_the_report_prints(page, chromium, tmp_path):
    opened = chromium.new_page()
    opened.goto(page.as_uri(), wait_until="load")
    opened.pdf(path=tmp_path / "report.pdf", print_background=True)
    opened.close()
    printed = (tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF-")
    assert printed.count(b"/Type /Page\n") > 2
