"""Leads the links of notebooks to pages of the site.

In a clone they lead to other notebooks and to the Markdown of the pages.
"""

import logging
import pathlib
import posixpath
import re

from mkdocs.utils import get_relative_url

log = logging.getLogger("mkdocs.hooks.notebooks")


def on_page_content(html, page, config, files):
    """Changes the links of a page that is made of a notebook."""
    source = page.file.src_uri
    if not source.endswith(".ipynb"):
        return html
    home = pathlib.Path(config["docs_dir"]).name

    def of_the_site(link):
        target = posixpath.normpath(
            posixpath.join(posixpath.dirname(source), link[1])
        )
        found = files.get_file_from_path(target.removeprefix(f"{home}/"))
        if found is None:
            log.warning("%s: %s is no page of the site", source, link[1])
            return link[0]
        url = get_relative_url(found.url, page.file.url)
        return f'href="{url}{link[2] or ""}"'

    local = r'href="(?!https?:)([^"#]+\.(?:ipynb|md))(#[^"]*)?"'
    return re.sub(local, of_the_site, html)
