"""A page as one HTML file that needs nothing else: styles and figures are inside."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2

from specact_rl.eval.report.blocks import Picture
from specact_rl.eval.report.figures import render
from specact_rl.eval.report.markdown import STATUS_WORDS
from specact_rl.eval.report.page import Page


def page_html(page: Page) -> str:
    """A page as HTML; text from logs and models is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    template = environment.get_template("page.html.jinja")
    return template.render(page=page, svg=_data_address, status_words=STATUS_WORDS)


def unbroken(text: str) -> str:
    """Text whose units stay on the line of their numbers."""
    for before, after in ((" %", "\u00a0%"), ("n = ", "n\u00a0=\u00a0"), ("× A", "×\u00a0A")):
        text = text.replace(before, after)
    return text


def _data_address(picture: Picture) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(render(picture, "svg")).decode("ascii")
