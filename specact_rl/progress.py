"""Progress bars on stderr: what is going on, how far it is, and how long it will take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, done: int, tokens: int = 0, /) -> None:
        """By the work just done, and the tokens that models computed for it."""


class ProgressBar(Protocol):
    """Makes bars."""

    def __call__(
        self, title: str, total: int | None, unit: str = "", /
    ) -> AbstractContextManager[Advance]:
        """A bar of `total` units, None where nobody knows; with their name it shows the speed."""


class _Speed(ProgressColumn):
    """Units and tokens a second; nothing for bars without a unit."""

    def render(self, task: Task) -> Text:
        """Of one bar."""
        unit, tokens, elapsed = task.fields["unit"], task.fields["tokens"], task.elapsed
        if not unit or not task.speed or not elapsed:
            return Text()
        told = f"{task.speed:,.1f} {unit}/s"
        return Text(told + (f", {tokens / elapsed:,.0f} tokens/s" if tokens else ""))


@contextmanager
def progress_bars(*, shown: bool = True) -> Iterator[ProgressBar]:
    """A factory of bars that stand below one another; none where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        _Speed(),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bars:

        @contextmanager
        def bar(title: str, total: int | None, unit: str = "", /) -> Iterator[Advance]:
            task = bars.add_task(title, total=total, unit=unit, tokens=0)
            num_tokens = 0

            def advance(done: int, tokens: int = 0, /) -> None:
                nonlocal num_tokens
                num_tokens += tokens
                bars.update(task, advance=done, tokens=num_tokens)

            yield advance
            bars.update(task, total=total or 1, completed=total or 1)

        yield bar
