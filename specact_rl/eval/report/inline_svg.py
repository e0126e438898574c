"""A matplotlib figure as part of an HTML page, in the colours of the page's scheme."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from specact_rl.eval.report.blocks import Picture
from specact_rl.eval.report.palette import CSS_NAMES

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_PIXELS = 96 / 72
"""Of a screen, to a point."""
_LEAST = 0.62
"""Of its own width: drawn smaller a figure's texts cannot be read, so that it scrolls instead."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(drawn: bytes, picture: Picture) -> str:
    """A picture's SVG element, of what was drawn, without comments and styles of its own.

    Ids get the picture's name in front, because a page has one space of them, and the palette's
    colours become CSS variables.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    # Ours, written by matplotlib a moment ago; comments, which hold texts, are not read.
    root = ElementTree.fromstring(drawn)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, _attribute(name, value, picture.name))
    del root.attrib["height"]
    width = _PIXELS * float(root.attrib.pop("width").removesuffix("pt"))
    root.set("style", f"max-width: {width:.0f}px; min-width: {_LEAST * width:.0f}px")
    root.set("role", "img")
    root.set("aria-label", picture.alt)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name.endswith("href") and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    if name == "style":
        value = _COLOUR.sub(_variable, value)
    return _REFERENCE.sub(rf"url(#{prefix}-\1)", value)


def _variable(match: re.Match[str]) -> str:
    name = CSS_NAMES.get(match.group().lower())
    return f"var(--{name})" if name else match.group()
