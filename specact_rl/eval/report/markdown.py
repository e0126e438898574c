"""A page as Markdown, with its figures as files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Code,
    Example,
    Explorer,
    Findings,
    Mistakes,
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
"""Folder of the PNG and SVG files, beside the page."""
NUMBER_BEGINS = frozenset("0123456789+–−")
NUM_MISTAKES = 10
"""Of each kind that are shown."""


def to_markdown(results: JSON) -> str:
    """The report as Markdown; figures are linked as `figures/*.png`."""
    return page_markdown(build_page(results))


def page_markdown(page: Page) -> str:
    """A page as Markdown."""
    lines = [f"# {escaped(page.title)}", ""]
    for block in page.summary:
        lines += _block(block)
    if len(page.sections) > 1:
        lines += [*(f"- [{escaped(s.title)}](#{s.anchor})" for s in page.sections), ""]
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
            yield from _example(block.verdict, block.lines)
        case Explorer():
            for shown in block.tables:
                yield from _table(shown)
                yield ""
        case Mistakes():
            yield from _mistakes(block)
        case Table():
            yield from _table(block)
    yield ""


def _example(title: str, lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield f"**{escaped(title)}**"
    yield ""
    for word, text in lines:
        yield f"- {word}: {escaped(text)}"


def _mistakes(block: Mistakes) -> Iterator[str]:
    for group in block.groups:
        found = [item for item in block.items if item.group == group]
        for item in found[:NUM_MISTAKES]:
            yield from _example(f"{item.score} {item.group}, {item.action_type}", item.lines)
            yield ""
        if len(found) > NUM_MISTAKES:
            more = len(found) - NUM_MISTAKES
            are = "is" if more == 1 else "are"
            yield f"{more} more of these {are} in report.html and results.json."
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
    main, below = escaped(cell.main), escaped(cell.below)
    # Two numbers on two lines of a page must not run together on one.
    apart = "; " if main and below[:1] in NUMBER_BEGINS and below else " "
    parts = [apart.join(part for part in (main, below) if part), f"({mark})" if mark else ""]
    return " ".join(part for part in parts if part)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
