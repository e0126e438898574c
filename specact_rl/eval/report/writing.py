"""The report's files: report.md, report.html and figures/*.png."""

from __future__ import annotations

import logging
from pathlib import Path

from specact_rl.eval.report.figures import render
from specact_rl.eval.report.html import page_html
from specact_rl.eval.report.markdown import FIGURES, page_markdown
from specact_rl.eval.report.numbers import JSON
from specact_rl.eval.report.page import build_page
from specact_rl.store import atomic_write

logger = logging.getLogger(__name__)


def write_report(results: JSON, folder: Path) -> list[Path]:
    """Write the report of a results dict and return its files, the HTML page last.

    Each file appears whole or not at all, and replaces one of an earlier report.

    Args:
        results: What results.json holds; any part may be missing.
        folder: Made when it is not there.
    """
    page = build_page(results)
    files: dict[Path, bytes] = {
        folder / FIGURES / f"{picture.name}.png": render(picture, "png")
        for picture in page.pictures
    }
    files[folder / "report.md"] = page_markdown(page).encode()
    files[folder / "report.html"] = page_html(page).encode()
    for path, content in files.items():
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    logger.info("wrote %d report files to %s", len(files), folder)
    return list(files)
