"""Progress bars on stderr: what is going on, how far it is, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ProgressBar = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""(title, total or None) -> context whose value is called with the work just done."""


@contextmanager
def progress_bars() -> Iterator[ProgressBar]:
    """A factory of bars that stand below one another; plain lines where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        @contextmanager
        def bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
            task = bars.add_task(title, total=total)
            yield lambda done: bars.advance(task, done)
            bars.update(task, total=total or 1, completed=total or 1)

        yield bar
