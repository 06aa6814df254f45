"""What mkdocs.yml calls: pages made from the code, and pages whose source lies above ``docs/``."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import model_page
import verdict_codes
from reference_pages import configuration, keys_of_mlflow

ROOT = Path(__file__).parents[1]
ABOVE = {"README.md": "first-run.md", "CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}
"""File of the repository -> page."""
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files of ``docs/``."""
    pages = {
        "reference/configuration.md": configuration(),
        "reference/metrics.md": keys_of_mlflow(),
        "reference/models.md": model_page.page(),
        "reference/verdicts.md": verdict_codes.page(),
    }
    for source, page in ABOVE.items():
        pages[page] = _relinked((ROOT / source).read_text(encoding="utf-8"), ROOT, page)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files above ``docs/`` into links to their pages; one to code or a folder becomes its text."""
    if page.file.generated_by is not None:
        return markdown
    return _relinked(markdown, (ROOT / "docs" / page.file.src_uri).parent, page.file.src_uri)


def _relinked(markdown: str, folder: Path, page: str) -> str:
    """Return ``markdown`` of a file in ``folder`` with its links as ``page`` needs them.

    A link to a file that does not exist stays as it is, so that mkdocs reports it.
    """

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = (folder / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return found[0]
        place = path.relative_to(ROOT).as_posix()
        goal = ABOVE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") and path.is_file() else "")
        return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(page) or '.')}{anchor})" if goal else text

    return _LINK.sub(link, markdown)
