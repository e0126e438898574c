"""The report's files: report.md, report.html and figures/*.png and *.svg."""

from __future__ import annotations

import logging
from pathlib import Path

from specact_rl.eval.report.figures import render
from specact_rl.eval.report.html import drawn_svg, page_html
from specact_rl.eval.report.markdown import FIGURES, page_markdown
from specact_rl.eval.report.numbers import JSON
from specact_rl.eval.report.page import Page, build_page
from specact_rl.store import atomic_write

logger = logging.getLogger(__name__)


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
    drawn = drawn_svg(page)
    files = {folder / FIGURES / f"{figure}.svg": svg for figure, svg in drawn.items()}
    for picture in page.pictures:
        files[folder / FIGURES / f"{picture.name}.png"] = render(picture, "png")
    files[folder / f"{name}.md"] = page_markdown(page).encode()
    files[folder / f"{name}.html"] = page_html(page, drawn).encode()
    for path, content in files.items():
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    logger.info("wrote %d report files to %s", len(files), folder)
    return list(files)
