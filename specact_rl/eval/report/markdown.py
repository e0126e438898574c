"""A page as Markdown, with its figures as files beside it."""

from __future__ import annotations

from collections.abc import Iterator

from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Code,
    Example,
    Findings,
    Paragraph,
    Picture,
    Table,
)
from specact_rl.eval.report.numbers import JSON
from specact_rl.eval.report.page import Page, build_page

STATUS_WORDS = {
    "shown": "shown",
    "against": "against",
    "open": "not shown",
    "unknown": "cannot say",
    "note": "note",
}
FIGURES = "figures"
"""Folder of the PNG files, beside the page."""


def to_markdown(results: JSON) -> str:
    """The report as Markdown; figures are linked as `figures/*.png`."""
    return page_markdown(build_page(results))


def page_markdown(page: Page) -> str:
    """A page as Markdown."""
    lines = [f"# {escaped(page.title)}", ""]
    for block in page.summary:
        lines += _block(block)
    for section in page.sections:
        lines += [f"## {escaped(section.title)}", ""]
        for block in section.blocks:
            lines += _block(block)
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """Text from logs and models without effect as Markdown or HTML, on one line."""
    for character in "\\`*_|<":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("](", "]\\(").split())


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            yield escaped(block.text)
        case Code():
            yield from ("```", block.text, "```")
        case Findings():
            for finding in block.items:
                claim, evidence = escaped(finding.claim), escaped(finding.evidence)
                yield f"- *{STATUS_WORDS[finding.status]}*: **{claim}** {evidence}".rstrip()
        case Picture():
            yield f"![{escaped(block.alt)}]({FIGURES}/{block.name}.png)"
            yield ""
            yield f"*{escaped(block.caption)}*"
        case Example():
            yield f"**{escaped(block.verdict)}**"
            yield ""
            for word, text in block.lines:
                yield f"- {word}: {escaped(text)}"
        case Table():
            yield from _table(block)
    yield ""


def _table(block: Table) -> Iterator[str]:
    yield _row([escaped(header) or " " for header in block.headers])
    yield _row(["---" if j < block.num_word_columns else "--:" for j in range(len(block.headers))])
    for row in block.rows:
        yield _row([_cell(block, cell) for cell in row])
    if block.caption:
        yield ""
        yield escaped(block.caption)
    for i, note in enumerate(block.notes):
        yield ""
        yield f"({chr(ord('a') + i)}) {escaped(note)}."


def _cell(block: Table, cell: Cell) -> str:
    mark = block.mark(cell)
    parts = [escaped(cell.main), escaped(cell.below), f"({mark})" if mark else ""]
    return " ".join(part for part in parts if part)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
