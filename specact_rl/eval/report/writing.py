"""The report's files: report.md, report.html and figures/*.png and *.svg."""

from __future__ import annotations

import logging
from pathlib import Path

from specact_rl.eval.report.figures import render
from specact_rl.eval.report.html import page_html
from specact_rl.eval.report.markdown import FIGURES, page_markdown
from specact_rl.eval.report.numbers import JSON
from specact_rl.eval.report.page import Page, build_page
from specact_rl.store import atomic_write

logger = logging.getLogger(__name__)

FORMS = ("png", "svg")
"""Of the figures beside the pages, for papers; the HTML page has its own inside."""


def write_report(results: JSON, folder: Path) -> list[Path]:
    """Write the report of a results dict and return its files, the HTML page last.

    Each file appears whole or not at all, and replaces one of an earlier report.

    Args:
        results: What results.json holds; any part may be missing.
        folder: Made when it is not there.
    """
    return write_page(build_page(results), folder, "report")


def write_page(page: Page, folder: Path, name: str) -> list[Path]:
    """Write name.md, name.html and the figures, and return them, the HTML page last."""
    files: dict[Path, bytes] = {
        folder / FIGURES / f"{picture.name}.{form}": render(picture, form)
        for picture in page.pictures
        for form in FORMS
    }
    files[folder / f"{name}.md"] = page_markdown(page).encode()
    files[folder / f"{name}.html"] = page_html(page).encode()
    for path, content in files.items():
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    logger.info("wrote %d report files to %s", len(files), folder)
    return list(files)
