"""The page: every section that the results can fill, in reading order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specact_rl.eval.report.blocks import Block, Findings, Paragraph, Picture, Section
from specact_rl.eval.report.calibration_sections import calibration_section
from specact_rl.eval.report.certificate_sections import certificates_section
from specact_rl.eval.report.explorer_section import explorer_section
from specact_rl.eval.report.latency_sections import cost_and_latency_section
from specact_rl.eval.report.mistakes_section import mistakes_section
from specact_rl.eval.report.model_sections import proposers_section, verifiers_section
from specact_rl.eval.report.numbers import JSON
from specact_rl.eval.report.run_sections import (
    examples_section,
    pairs_section,
    reproduce_section,
    summary,
    title,
    training_section,
)
from specact_rl.eval.report.study_sections import log_section, unseen_section
from specact_rl.eval.report.system_sections import (
    action_types_section,
    contrasts_section,
    live_section,
    replay_section,
)
from specact_rl.eval.report.value_sections import frontier_section, value_section
from specact_rl.eval.report.verdicts import findings, headlines

HOW_TO_READ = (
    "Shown: the whole 95 % interval is on one side, and a declared contrast also survives Holm's "
    "correction. Not shown is not the same as equal. Cannot say: there is no interval, which is "
    "evidence of nothing."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report before it is a file."""

    title: str
    summary: list[Block]
    sections: list[Section]

    @property
    def pictures(self) -> list[Picture]:
        """Every figure, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Picture)]


def build_page(results: JSON) -> Page:
    """The page of a results dict; a section without data is left out."""
    found = [section(results) for section in SECTIONS]
    first = headlines(results)
    return Page(
        title=title(results),
        summary=[*([Findings(items=tuple(first))] if first else []), *summary(results)],
        sections=[section for section in found if section is not None],
    )


def _verdicts_section(results: JSON) -> Section | None:
    items = tuple(findings(results))
    if not items:
        return None
    return Section(title="Verdicts", blocks=[Paragraph(text=HOW_TO_READ), Findings(items=items)])


SECTIONS: tuple[Callable[[JSON], Section | None], ...] = (
    # What came out.
    _verdicts_section,
    replay_section,
    contrasts_section,
    explorer_section,
    live_section,
    # Why: is the score right, what can be promised of it, what is it worth, what does it cost?
    verifiers_section,
    calibration_section,
    certificates_section,
    value_section,
    frontier_section,
    cost_and_latency_section,
    # Where.
    action_types_section,
    unseen_section,
    mistakes_section,
    examples_section,
    # What it was made from.
    log_section,
    proposers_section,
    pairs_section,
    training_section,
    reproduce_section,
)
"""In the order of the page."""
