"""What a report page is made of, before it is Markdown, HTML or a terminal table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Status = Literal["shown", "against", "open", "unknown", "note"]
"""Shown; the data speak against it; the interval leaves it open; there is no interval, which is
evidence of nothing; a fact that is none of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number of a table with its interval below or beside it."""

    main: str
    below: str = ""
    """Interval and count, in smaller type; empty when there are none."""
    note: str | None = None
    """Becomes a footnote of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table whose first columns are words and whose others are numbers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    num_word_columns: int = 1
    """Columns from the left that are text; the others are aligned to the right."""
    kind: Literal["table"] = "table"

    @property
    def notes(self) -> list[str]:
        """Distinct notes of the cells, in order of appearance; the footnotes a, b, c and so on."""
        found = [cell.note for row in self.rows for cell in row if cell.note]
        return list(dict.fromkeys(found))

    def mark(self, cell: Cell) -> str:
        """Letter of a cell's footnote, empty when it has none."""
        return chr(ord("a") + self.notes.index(cell.note)) if cell.note else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """Running text, without markup."""

    text: str
    kind: Literal["paragraph"] = "paragraph"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A command, as it is typed."""

    text: str
    kind: Literal["code"] = "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure, drawn only when a format wants it."""

    name: str
    """File name without ending."""
    alt: str
    """What it shows, for those who cannot see it."""
    caption: str
    draw: Callable[[], Figure]
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One verdict in plain words."""

    status: Status
    claim: str
    """One sentence."""
    evidence: str
    """Numbers with intervals and counts behind it, as sentences."""

    @property
    def text(self) -> str:
        """Claim and evidence in one line."""
        return f"{self.claim} {self.evidence}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A list of verdicts."""

    items: tuple[Finding, ...]
    kind: Literal["findings"] = "findings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One logged step: what was asked, offered and decided, as (word, text) lines."""

    verdict: str
    lines: tuple[tuple[str, str], ...]
    kind: Literal["example"] = "example"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explorer:
    """Curves over thresholds: a slider and plots where a script runs, tables where none does."""

    data: Mapping[str, Any]
    """JSON that the script draws from; see `explorer_section`."""
    tables: tuple[Table, ...]
    kind: Literal["explorer"] = "explorer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One step at which a gate was sure, and wrong."""

    group: str
    """Which kind of mistake, in words."""
    action_type: str
    score: str
    """The gate's probability, as text."""
    lines: tuple[tuple[str, str], ...]
    """As (word, text), the first one in sight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """A list to browse; a script adds filters and pages."""

    items: tuple[Mistake, ...]
    kind: Literal["mistakes"] = "mistakes"

    @property
    def groups(self) -> list[str]:
        """Kinds of mistakes, in order of appearance."""
        return list(dict.fromkeys(item.group for item in self.items))

    @property
    def action_types(self) -> list[str]:
        """Action types of the proposals, in alphabetical order."""
        return sorted({item.action_type for item in self.items})


Block = Table | Paragraph | Code | Picture | Findings | Example | Explorer | Mistakes


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    folded: bool = False
    """Closed at first where a page can be folded: long, and not what most readers come for."""

    @property
    def anchor(self) -> str:
        """The title as a fragment of an address, as GitHub makes it of a Markdown heading."""
        kept = (c for c in self.title.lower() if c.isalnum() or c in " -_")
        return "".join(kept).replace(" ", "-")


def words(text: object) -> Cell:
    """A cell of text; None is an empty cell."""
    return Cell(main="" if text is None else str(text))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "", num_words: int = 1
) -> Table:
    """A table without the columns that are empty in every row."""
    kept = [j for j in range(len(headers)) if any(row[j].main for row in rows)]
    return Table(
        headers=tuple(headers[j] for j in kept),
        rows=tuple(tuple(row[j] for j in kept) for row in rows),
        caption=caption,
        num_word_columns=sum(j < num_words for j in kept),
    )
