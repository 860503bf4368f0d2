"""The page "Try it" in a browser: its numbers against Keras, its manners."""

import base64
import gzip
import importlib.util
import io
import json
import pathlib

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_lficam
from keras_lficam import data, visualization

pytestmark = pytest.mark.site
ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = ROOT / "saved_models/digits_in_photos"
EXAMPLES = sorted((SHIPPED / "examples").glob("*.png"))
ANSWERED = "#try-result b:not(:empty)"
# What is told of an answer, as lists that a test can read.
LISTEN = """() => document.getElementById("try").addEventListener("answer",
    ({ detail }) => { window.count = (window.count ?? 0) + 1;
    window.last = detail; })"""
LAST = """() => Object.fromEntries(Object.entries(window.last).map(
    ([name, value]) => [name, value.length ? [...value] : value]))"""


@pytest.fixture(scope="module")
def view():
    model = keras.models.load_model(SHIPPED / "model.keras", compile=False)
    return keras_lficam.explanation_view(model, top=None)


@pytest.fixture
def open_try(open_page):
    """Opens the page, whose first answer is there."""

    def opened(**options):
        page = open_page("try/", **options)
        page.wait_for_selector(ANSWERED, timeout=60_000)
        page.evaluate(LISTEN)
        return page

    return opened


@pytest.fixture
def page(open_try):
    return open_try()


def last_answer(page):
    """The last answer, once no other is on its way."""
    page.wait_for_function("window.last")
    count = None
    while count != (count := page.evaluate("window.count")):
        page.wait_for_timeout(200)
    answer = page.evaluate(LAST)
    return {
        name: np.array(value, "float32") if isinstance(value, list) else value
        for name, value in answer.items()
    }


def chosen(page, number):
    """The answer to one of the shipped examples."""
    page.locator(f"#try-images img[src$='/{number}.png']").click()
    return last_answer(page)


def uploaded(page, image, name="mine.png"):
    """The answer to an image that is chosen as a file."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG")
    upload(page, name, file.getvalue())
    return last_answer(page)


def upload(page, name, content):
    page.locator("#try-file").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def clear(page):
    page.locator("#try-clear").click()
    return last_answer(page)


def best(answer):
    return int(answer["probabilities"].argmax())


def near(values, expected):
    """Whether numbers are equal to 1e-4 of the largest."""
    expected = np.asarray(expected)
    assert values.size == expected.size
    off = np.abs(values.reshape(expected.shape) - expected).max()
    return off <= 1e-4 * max(np.abs(expected).max(), 1)


def test_numbers_are_those_of_keras(page, view):
    assert len(EXAMPLES) == 6
    for number, path in enumerate(EXAMPLES):
        answer = chosen(page, number + 1)
        image = np.asarray(PIL.Image.open(path), "float32")
        expected = view.explain(image[np.newaxis])
        assert (answer["pixels"].reshape(image.shape) == image).all()
        assert best(answer) == number
        assert near(answer["probabilities"], expected.probabilities)
        assert near(answer["logits"], expected.logits)
        assert near(answer["attention"], expected.attention_map)
        assert near(answer["attentionLogits"], expected.attention_logits)
        assert near(answer["evidence"], expected.coarse_evidence)


def test_maps_lie_where_those_of_keras_lie(page, view):
    chosen(page, 4)
    image = np.asarray(PIL.Image.open(EXAMPLES[3]), "float32")
    size = 96, 160
    expected = view.upsample(
        view.predict(image[np.newaxis])["class_evidence"], size, (64, 64)
    )[0, ..., 3]
    fine = page.evaluate(
        """async size => {
            const page = await import(document.querySelector(
                "script[src='try.js']").src);
            const map = Array.from({ length: 256 },
                (_, cell) => window.last.evidence[10 * cell + 3]);
            const along = { center: 0, stride: 4 };
            return [...page.upsample(map, [16, 16], size, [along, along])];
        }""",
        size,
    )
    assert near(np.array(fine, "float32"), expected)


def test_other_sizes_become_what_the_savedmodel_makes_of_them(page, view, rng):
    served = tf.saved_model.load(str(SHIPPED / "1"))
    served = served.signatures["uint8_images"]
    for size in [(200, 150), (31, 47), (40, 300), (640, 480)]:
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (7, 9, 3), "uint8"))
        noise = rng.integers(0, 128, (*size, 3), "uint8")
        image = np.asarray(coarse.resize(size[::-1])) // 2 + noise
        answer = uploaded(page, image)
        resized = tf.image.resize(image, (64, 64), "bilinear", antialias=True)
        assert np.abs(answer["pixels"] - np.ravel(resized)).max() < 1e-3
        given = served(images=tf.constant(image[np.newaxis]))
        assert near(answer["probabilities"], given["probabilities"])
        expected = view.predict(resized[np.newaxis].numpy())
        assert near(answer["evidence"], expected["class_evidence"])


def test_a_file_is_decoded_as_in_training(page, rng, tmp_path):
    image = PIL.Image.open(EXAMPLES[0])
    image.save(tmp_path / "a.jpg", quality=85)
    image.putalpha(PIL.Image.fromarray(rng.integers(0, 256, (64, 64), "uint8")))
    image.save(tmp_path / "b.png")
    for path in sorted(tmp_path.iterdir()):
        upload(page, path.name, path.read_bytes())
        page.wait_for_function("window.last")
        pixels = last_answer(page)["pixels"].reshape(64, 64, 3)
        # Chromium rounds what is transparent on its own.
        assert np.abs(pixels - data.read_image(path)).max() <= 1
        page.evaluate("window.last = null")


def test_colors_are_those_of_our_figures(page, view):
    """On an image of one color, which is itself at any size."""
    image = np.full((256, 256, 3), (90, 140, 60), "uint8")
    answer = uploaded(page, image)
    small = image[:64, :64][np.newaxis].astype("float32")
    shown = view.explain(small).over(image[np.newaxis])
    one, other = int(answer["one"]), int(answer["other"])
    pair = shown.class_evidence[..., [one, other]]
    limit = float(np.abs(pair).max())
    expected = {
        "attention": visualization.overlay(
            image[np.newaxis], shown.attention_map
        ),
        "contrast": visualization.signed_overlay(
            image[np.newaxis], shown.contrast(one, other)
        ),
    }
    for index, name in enumerate(("one", "other")):
        expected[name] = visualization.signed_overlay(
            image[np.newaxis], pair[..., index : index + 1], limit=limit
        )
    for name, overlay in expected.items():
        url = page.locator(f"#try-{name} canvas").evaluate(
            "canvas => canvas.toDataURL()"
        )
        file = io.BytesIO(base64.b64decode(url.partition(",")[2]))
        pixels = np.asarray(PIL.Image.open(file).convert("RGB"), int)
        # A level of the color map, of 256, is up to four of a channel.
        assert np.abs(pixels - overlay[0]).max() <= 4
        assert np.abs(pixels - image).max() > 30
    ends = page.locator("#try-one .try-ends").inner_text().split()
    assert ends == [f"−{_three(limit)}", "0", f"+{_three(limit)}"]


def _three(number):
    """Three digits, as JavaScript's `toPrecision`."""
    return f"{number:#.3g}".rstrip(".")


SEVEN = [(0.3, 0.25), (0.7, 0.25), (0.62, 0.42), (0.5, 0.75)]


def line(page, points):
    """Draws through points, in shares of the image, by mouse or finger."""
    page.locator("#try-stage").scroll_into_view_if_needed()
    box = page.locator("#try-stage").bounding_box()
    spots = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"])
        for x, y in points
    ]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=8)
    page.mouse.up()
    return last_answer(page)


def touch(page, points):
    box = page.locator("#try-stage").bounding_box()
    session = page.context.new_cdp_session(page)
    kinds = ["touchStart"] + ["touchMove"] * (len(points) - 1)
    for kind, (x, y) in zip(kinds, points, strict=True):
        spot = {
            "x": box["x"] + x * box["width"],
            "y": box["y"] + y * box["height"],
        }
        session.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [spot]}
        )
    session.send(
        "Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []}
    )
    return last_answer(page)


def test_drawing_changes_the_prediction_live(page, view):
    before = clear(page)
    page.evaluate("window.count = 0")
    drawn = line(page, SEVEN)
    assert page.evaluate("window.count") > 2  # While it is drawn, too.
    assert best(drawn) == 7
    assert drawn["probabilities"][7] > before["probabilities"][7] + 0.5
    pixels = drawn["pixels"].reshape(1, 64, 64, 3)
    # White where the pen was, and as before where it never was.
    assert (pixels[0, 16, 24:40] > 254).all()
    unchanged = before["pixels"].reshape(64, 64, 3)
    assert (pixels[0, 56:] == unchanged[56:]).all()
    expected = view.predict(pixels)
    assert near(drawn["probabilities"], expected["probabilities"])
    assert near(drawn["evidence"], expected["class_evidence"])
    page.locator("#try-undo").click()
    assert (last_answer(page)["pixels"] == before["pixels"]).all()


def test_a_finger_draws_on_a_phone_and_nothing_scrolls_aside(open_try):
    page = open_try(width=390, has_touch=True, is_mobile=True)
    clear(page)
    page.locator("#try-stage").scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    assert best(touch(page, SEVEN)) == 7
    assert page.evaluate("scrollY") == before
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_class_that_is_clicked_is_explained_and_compared(page, view):
    chosen(page, 4)
    page.locator("#try-classes .try-for").nth(8).click()
    page.locator("#try-classes [aria-label='rather than 5']").click()
    answer = last_answer(page)
    assert (answer["one"], answer["other"]) == (8, 5)
    titles = page.locator("#try-maps b").all_inner_texts()
    assert titles == [
        "Attention map",
        "Evidence for 8",
        "Evidence for 5",
        "8 rather than 5",
    ]
    page.locator("#try-follow").click()
    assert last_answer(page)["one"] == 3


PNG = EXAMPLES[0].read_bytes()


def jpeg():
    file = io.BytesIO()
    PIL.Image.open(EXAMPLES[0]).resize((400, 400)).save(file, "JPEG")
    return file.getvalue()


def test_a_damaged_file_is_named_and_the_image_stays(page):
    before = chosen(page, 4)
    message = page.locator("#try-message")
    start = jpeg()[:300]
    zeros = PNG[:8] + b"\0" * 500
    for number, content in enumerate([PNG[:200], zeros, b"no", b"", start]):
        upload(page, f"{number}.png", content)
        page.wait_for_function(
            "start => document.getElementById('try-message').textContent"
            ".startsWith(start)",
            arg=f"“{number}.png” is damaged",
        )
        assert message.is_visible()
        assert "To fix this" in message.inner_text()
    assert last_answer(page)["logits"].tolist() == before["logits"].tolist()
    chosen(page, 1)
    assert not message.is_visible()


def test_too_many_pixels_are_refused(page):
    file = io.BytesIO()
    PIL.Image.new("1", (10_000, 6_001)).save(file, "PNG")
    upload(page, "huge.png", file.getvalue())
    message = page.locator("#try-message")
    message.wait_for(state="visible")
    assert "60 million pixels" in message.inner_text()


def test_an_image_is_dropped(page):
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "mine.png"));
            document.getElementById("try").dispatchEvent(
                new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        list(EXAMPLES[5].read_bytes()),
    )
    page.wait_for_function("window.last?.probabilities[5] > 0.9")


def test_it_works_without_a_network_once_it_is_loaded(page):
    clear(page)
    page.context.set_offline(True)
    assert best(line(page, SEVEN)) == 7


def test_it_works_by_keyboard(page):
    clear(page)
    names = []
    page.locator("#try-images button").last.focus()
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id"))
    assert names[:2] == ["try-file", "try-stage"]
    assert names[3] == "try-width"
    page.locator("#try-stage").focus()
    page.keyboard.press("7")
    assert best(last_answer(page)) == 7
    page.wait_for_function(
        "document.getElementById('try-status').textContent"
        ".startsWith('The model says 7')"
    )
    page.locator("#try-classes [aria-label='evidence for 7']").focus()
    page.keyboard.press("ArrowDown")
    assert last_answer(page)["one"] == 8


def test_each_control_has_a_name(page):
    names = page.evaluate(
        """() => [...document.querySelectorAll(
            "#try button, #try input, #try canvas")].map(element =>
            element.ariaLabel || element.labels?.[0]?.textContent ||
            element.textContent || element.querySelector("img")?.alt || "")"""
    )
    assert len(names) > 40
    assert all(name.strip() for name in names)


@pytest.mark.parametrize("width", [390, 700])
def test_it_fits_the_window_with_all_its_maps(width, open_try):
    page = open_try(width=width)
    wide = page.evaluate(
        "[document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert wide[0] <= wide[1]
    for canvas in page.locator("#try canvas").all():
        assert canvas.bounding_box()["width"] > 150


def test_a_tall_image_fits_the_window_and_is_drawn_on_where_it_is_touched(
    page,
):
    white = np.full((900, 200, 3), 255, "uint8")
    uploaded(page, white)
    assert page.locator("#try-stage").bounding_box()["height"] <= 0.75 * 900
    drawn = line(page, [(0.5, 0.5), (0.5, 0.5)])
    dark = 255 - drawn["pixels"].reshape(64, 64, 3).mean(axis=-1)
    assert dark.max() > 100
    center = [
        np.average(np.arange(64), weights=dark.sum(axis)) for axis in (1, 0)
    ]
    np.testing.assert_allclose(center, 31.5, atol=1)


def test_without_javascript_it_says_what_is_missing(open_page):
    page = open_page("try/", java_script_enabled=False)
    assert "needs JavaScript" in page.locator("noscript").inner_text()
    assert not page.locator("#try").is_visible()


def test_a_host_may_unzip_the_runtime(open_page, address):
    page = open_page("try/")

    def unzipped(route):
        body = gzip.decompress(route.fetch().body())
        route.fulfill(body=body, content_type="application/wasm")

    page.route("**/*.wasm.gz", unzipped)
    page.reload()
    page.wait_for_selector(ANSWERED, timeout=60_000)


def test_the_start_page_leads_there_with_one_click(open_page):
    page = open_page("./")
    page.locator("article a[href='try/']").first.click()
    page.wait_for_selector(ANSWERED, timeout=60_000)


def test_another_runtime_than_the_pinned_one_is_refused(tmp_path):
    path = ROOT / "docs/try_it.py"
    spec = importlib.util.spec_from_file_location("try_it", path)
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    package = tmp_path / "package.tgz"
    package.write_bytes(b"not what was pinned")
    with pytest.raises(hook.PluginError, match="must have the SHA-512"):
        hook.checked(package)


def test_what_is_served_is_what_is_shipped(page):
    about = json.loads((SHIPPED / "browser/about.json").read_text())
    names = [row.inner_text() for row in page.locator("#try-classes b").all()]
    assert names == about["class_names"]
