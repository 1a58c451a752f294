"""Adds the Markdown pages outside docs/ to the docs site, and points links between pages at them.

On disk and on a code host the links lead from file to file; here README.md at the top becomes
overview.md, and so on.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "docs/overview.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "CHANGELOG.md": "docs/changelog.md",
    "tests/README.md": "docs/tests.md",
}
"""Where each page outside docs/ would be if it were inside."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in OUTSIDE.items():
        uri = page.removeprefix("docs/")
        files.append(File.generated(config, uri, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page with its links as the site has them; what the site does not have becomes plain
    text."""
    uri = f"docs/{page.file.src_uri}"
    source = next((source for source, inside in OUTSIDE.items() if inside == uri), uri)

    def replaced(link: re.Match[str]) -> str:
        text, target, anchor = link["text"], link["target"], link["anchor"] or ""
        path = os.path.normpath(PurePosixPath(source).parent / target)
        if not (ROOT / path).exists():
            return link[0]  # the strict build reports it
        inside = OUTSIDE.get(path, path)
        if not inside.startswith("docs/"):
            return text
        if (ROOT / inside).is_dir():
            inside = f"{inside}/README.md"
        return f"{text}({os.path.relpath(inside, PurePosixPath(uri).parent)}{anchor})"

    return re.sub(
        r"(?P<text>\[[^\]]*\])\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)", replaced, markdown
    )
