"""Opens the built site in a browser, as `make site` does after building it.

It lies under a path, as on most hosts, and nothing but it can be reached.
"""

import pathlib
import re
import urllib.parse

import pytest

pytestmark = pytest.mark.site
ROOT = pathlib.Path(__file__).parents[2]
SITE = ROOT / "site"
PAGES = sorted(
    path.parent.relative_to(SITE).as_posix() + "/"
    for path in SITE.rglob("index.html")
)
NOTEBOOKS = [page for page in PAGES if page.startswith("tutorials/0")]
WIDTHS = {"desk": 1280, "phone": 390}


def test_the_site_is_built():
    assert len(PAGES) > 20, f"{SITE} is not built. To fix this: make docs"
    assert len(NOTEBOOKS) == 8


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_and_is_no_wider_than_the_window(path, width, open_page):
    page = open_page(path, width)
    assert page.locator("h1").count() == 1
    wide = page.evaluate(
        "[document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert wide[0] <= wide[1]
    assert (
        page.evaluate(
            "[...document.images].filter("
            "image => image.loading != 'lazy' && !image.naturalWidth).length"
        )
        == 0
    )


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_shows_its_figures(path, open_page):
    page = open_page(path)
    widths = page.evaluate(
        "[...document.querySelectorAll('.jp-OutputArea-output img')]"
        ".map(image => image.naturalWidth)"
    )
    assert widths
    assert min(widths) > 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(scheme, open_page):
    for path in ("./", "reference/", NOTEBOOKS[0]):
        page = open_page(path, scheme=scheme)
        text = page.evaluate(
            "getComputedStyle(document.querySelector('article p')).color"
        )
        ground = page.evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        ground = channels(ground)
        assert (luminance(ground) < 0.5) == (scheme == "dark")
        text = channels(text, behind=ground)
        low, high = sorted([luminance(text), luminance(ground)])
        # WCAG 2.2, success criterion 1.4.3.
        assert (high + 0.05) / (low + 0.05) >= 4.5


def channels(color, behind=(255, 255, 255)):
    """Channels of a color of CSS, laid over what is behind it."""
    numbers = color[color.index("(") + 1 : -1].split(",")
    *rgb, alpha = [*map(float, numbers), 1.0][:4]
    pairs = zip(rgb, behind, strict=True)
    return [alpha * front + (1 - alpha) * back for front, back in pairs]


def luminance(rgb):
    """Relative luminance, as WCAG 2.2 defines it."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (part / 255 for part in rgb)
    ]
    weights = (0.2126, 0.7152, 0.0722)
    return sum(w * x for w, x in zip(weights, linear, strict=True))


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("AttentionMechanism", "reference/"),
        ("TF_CONFIG", "distribute/"),
        ("shipped model", "tutorials/01_see_what_a_classifier_looks_at/"),
    ],
)
def test_search_finds(words, where, open_page, address):
    page = open_page("./")
    page.locator("input.md-search__input").click()
    page.locator("input.md-search__input").press_sequentially(words)
    # Results are replaced while words are typed, so all are looked at at once.
    page.wait_for_function(
        """where => [...document.querySelectorAll("a.md-search-result__link")]
        .some(link => decodeURIComponent(link.href).includes(where))""",
        arg=where,
        timeout=10_000,
    )


def test_the_reference_shows_examples_as_code(open_page):
    page = open_page("reference/")
    for name in ("build", "export", "AttentionMechanism"):
        example = page.locator(f".doc-object:has(> h3[id$='.{name}']) pre")
        assert any(name in text for text in example.all_inner_texts()), name


def test_no_item_of_a_list_is_lost_in_a_paragraph():
    """As one is that follows, without an empty line, a paragraph of another."""
    from bs4 import BeautifulSoup

    seen = 0
    for path in SITE.rglob("*.html"):
        page = BeautifulSoup(path.read_text(), "html.parser")
        for bold in page.select("p strong, li strong"):
            seen += 1
            before = str(bold.previous_sibling or "")
            assert not re.search(r"\s\d+\.\s+$", before), (path, bold.text)
    assert seen > 20


def test_no_table_is_lost_in_a_paragraph():
    """As one is whose first line begins with an empty cell without a bar."""
    from bs4 import BeautifulSoup

    tables = 0
    for path in SITE.rglob("*.html"):
        page = BeautifulSoup(path.read_text(), "html.parser")
        tables += len(page.select("article table"))
        for paragraph in page.select("article p"):
            assert "--- |" not in paragraph.text, (path, paragraph.text[:80])
    assert tables > 20


def test_no_link_leads_nowhere():
    from bs4 import BeautifulSoup

    pages = {
        path: BeautifulSoup(path.read_text(), "html.parser")
        for path in SITE.rglob("*.html")
        if path.name != "404.html"
    }
    names = {
        path: {
            tag.get("id") or tag.get("name")
            for tag in page.find_all(lambda t: t.get("id") or t.get("name"))
        }
        for path, page in pages.items()
    }
    broken = []
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            parts = urllib.parse.urlsplit(link["href"])
            if parts.scheme or parts.netloc or link["href"] in ("#", ""):
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
            if parts.path in ("", "."):
                target = path
            elif target.is_dir():
                target = target / "index.html"
            anchor = urllib.parse.unquote(parts.fragment)
            missing = anchor and anchor not in names.get(target, {anchor})
            if not target.exists() or missing:
                broken.append((path.relative_to(SITE), link["href"]))
    assert not broken
