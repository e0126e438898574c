"""A page as one HTML file that needs nothing else: styles, figures and script are inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

import jinja2

from specact_rl.eval.report.figures import render
from specact_rl.eval.report.inline_svg import inline_svg
from specact_rl.eval.report.markdown import STATUS_WORDS
from specact_rl.eval.report.page import Page

HERE = Path(__file__).parent


def drawn_svg(page: Page) -> dict[str, bytes]:
    """The figures of a page as SVG, by name."""
    return {picture.name: render(picture, "svg") for picture in page.pictures}


def page_html(page: Page, drawn: Mapping[str, bytes]) -> str:
    """A page as HTML; text from logs and models is escaped.

    The page's policy lets the browser load nothing and run no script but the page's own, so that
    text that slipped through would be inert all the same.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    script = (HERE / "page.js").read_text(encoding="utf-8")
    template = environment.get_template("page.html.jinja")
    return template.render(
        page=page,
        inline_svg=lambda picture: inline_svg(drawn[picture.name], picture),
        status_words=STATUS_WORDS,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def unbroken(text: str) -> str:
    """Text whose units stay on the line of their numbers."""
    for before, after in ((" %", "\u00a0%"), ("n = ", "n\u00a0=\u00a0"), ("× A", "×\u00a0A")):
        text = text.replace(before, after)
    return text
