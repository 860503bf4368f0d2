"""The built site on a server of this machine, and pages of it in a browser.

It lies under a path, as on most hosts, and nothing but it can be reached.
"""

import functools
import http.server
import pathlib
import threading

import pytest

SITE = pathlib.Path(__file__).parents[2] / "site"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of the site under a path."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "some").mkdir()
    (folder / "some" / "path").symlink_to(SITE)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/some/path/"
    server.shutdown()


@pytest.fixture
def open_page(chromium, address):
    """Opens a page, and refuses errors and requests of other hosts.

    Nor may a page send anything: it only asks for files.
    """
    contexts, faults = [], []

    def opened(path, width=1280, scheme="light", **options):
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda said: said.type == "error" and faults.append(said.text),
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.method == "GET"
                and request.url.startswith((address, "data:", "blob:"))
                or faults.append(f"{request.method} {request.url}")
            ),
        )
        page.on(
            "response",
            lambda response: (
                response.status < 400
                or faults.append(f"{response.status}: {response.url}")
            ),
        )
        page.goto(address + path.removeprefix("./"), wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults
