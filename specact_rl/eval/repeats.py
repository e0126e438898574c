"""The same claims over several runs of one preset: how often each repeats.

Runs differ in their seed, and so in tasks, training and sampling; the bases that training starts
from are the same, so that nothing here speaks of other bases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from specact_rl.errors import ConfigError
from specact_rl.eval.report.blocks import Cell, Paragraph, Section, Table, table, words
from specact_rl.eval.report.lookup import contrast, part, rows, system, verifier
from specact_rl.eval.report.markdown import page_markdown
from specact_rl.eval.report.numbers import JSON, cell, direction, metric
from specact_rl.eval.report.page import Page
from specact_rl.metrics.values import MetricValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A number of a run, and the side of a bound that it was predicted to be on."""

    name: str
    read: Callable[[JSON], MetricValue | None]
    """The number in the results of a run; None where it is not there."""
    above: bool = True
    """Predicted above the bound, or below."""
    bound: float = 0.0
    in_points: bool = True
    """A difference of shares, shown in percentage points."""

    def holds(self, value: float) -> bool:
        """Whether a value is on the predicted side."""
        return value > self.bound if self.above else value < self.bound


def _contrast(better: str, worse: str, level: str = "acceptable") -> Callable[..., Any]:
    return lambda results: metric(contrast(results, better, worse, level), "difference")


def _of_system(name: str, key: str) -> Callable[..., Any]:
    return lambda results: metric(system(results, name), key)


def _of_verifier(key: str, *, over: str | None = None) -> Callable[..., Any]:
    def read(results: JSON) -> MetricValue | None:
        row = verifier(results, "D")
        return metric(row, key) if over is None else metric(part(row or {}, key), over)

    return read


def _over_baseline(name: str) -> Callable[..., Any]:
    def read(results: JSON) -> MetricValue | None:
        found = [r for r in rows(results, "replay", "baselines") if r["name"] == name]
        return metric(found[0], "cheap_minus_baseline") if found else None

    return read


CLAIMS = (
    Claim(name="cheap beats Markov, arguments", read=_over_baseline("markov")),
    Claim(
        name="cheap beats nearest neighbour, arguments", read=_over_baseline("nearest_neighbour")
    ),
    Claim(name="strong beats cheap", read=_contrast("A", "B")),
    Claim(name="strong beats cheap, arguments", read=_contrast("A", "B", "arguments")),
    Claim(
        name="verifier's AUROC is above 0.80",
        read=_of_verifier("auroc"),
        bound=0.80,
        in_points=False,
    ),
    Claim(
        name="verifier's AUROC beats own confidence",
        read=_of_verifier("gain_over", over="proposer_logprob"),
        in_points=False,
    ),
    Claim(
        name="verifier's AUROC beats linear features",
        read=_of_verifier("gain_over", over="linear"),
        in_points=False,
    ),
    Claim(
        name="verifier tells proposals of one step apart (AUROC above 0.5)",
        read=_of_verifier("auroc_same_step"),
        bound=0.5,
        in_points=False,
    ),
    Claim(
        name="debiased ECE is at most 0.03",
        read=_of_verifier("debiased_ece"),
        above=False,
        bound=math.nextafter(0.03, 1.0),
        in_points=False,
    ),
    Claim(name="Brier skill is above 0", read=_of_verifier("brier_skill"), in_points=False),
    Claim(name="D beats cheap only", read=_contrast("D", "B")),
    Claim(name="D beats its random gate", read=_of_system("D", "skill")),
    Claim(
        name="D is not worse than A by 2 points",
        read=_of_system("D", "difference_from_a"),
        bound=-0.02,
    ),
    Claim(
        name="D takes fewer FLOPs than A (ratio below 1)",
        read=_of_system("D", "relative_flops"),
        above=False,
        bound=1.0,
        in_points=False,
    ),
    Claim(name="E beats D", read=_contrast("E", "D")),
    Claim(name="E beats D, linear + confidence picks", read=_contrast("E-lin+", "D-lin+")),
    Claim(name="DPO beats SFT", read=_contrast("B-dpo", "B")),
)
"""A claim is to be added before the runs that it is read from, and never to fit them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """What became of a claim in several runs."""

    claim: Claim
    values: tuple[MetricValue | None, ...]
    """One per run; None, or without a value, where a run has none."""

    @property
    def known(self) -> list[MetricValue]:
        """Those of the values that are there."""
        return [m for m in self.values if m is not None and m.value is not None]

    @property
    def num_hold(self) -> int:
        """Runs whose value is on the predicted side."""
        return sum(self.claim.holds(m.value) for m in self.known if m.value is not None)

    @property
    def num_shown(self) -> int:
        """Runs whose whole interval is there."""
        side = "above" if self.claim.above else "below"
        return sum(direction(m, self.claim.bound) == side for m in self.values)

    @property
    def has_intervals(self) -> bool:
        """Whether some run has an interval for it."""
        return any(m is not None and m.low is not None for m in self.values)

    @property
    def mean(self) -> MetricValue:
        """Mean over runs, with its interval."""
        return mean_over_runs(self.known)


def mean_over_runs(values: Sequence[MetricValue]) -> MetricValue:
    """Mean of one value a run, with Student's t interval over the runs.

    It takes runs as independent draws of a value that is about normal. Only the first is sure:
    they share the bases they start from and the settings that were chosen before. Where the runs'
    own intervals give the mean a wider one, it is that: rates of few tasks lie on a grid, and
    runs that agree on it by chance show no spread.

    Args:
        values: One per run, each with a value; their intervals, 95 %, may be missing.
    """
    x = np.array([m.value for m in values], dtype=np.float64)
    if x.size < 2:
        return MetricValue(value=None, n=x.size, note="fewer than two runs have a value")
    half = stats.t.ppf(0.975, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size)
    widths = [m.high - m.low for m in values if m.high is not None and m.low is not None]
    if len(widths) == x.size:
        half = max(half, math.sqrt(sum(width**2 for width in widths)) / 2 / x.size)
    center = float(x.mean())
    return MetricValue(value=center, low=center - half, high=center + half, n=x.size)


def repeated_claims(runs: Sequence[JSON]) -> list[Repeated]:
    """Every claim in each of several runs' results.

    Raises:
        ConfigError: Fewer than two runs, of different presets, bases or code, or two of one seed.
            Code is compared by what evaluated them: the same command again does that anew.
    """
    if len(runs) < 2:
        raise ConfigError(f"at least two runs are needed, got {len(runs)}")
    for key in ("preset", "bases", "code_version", "source_hash", "metrics_version"):
        found = sorted({str(part(run, "meta").get(key)) for run in runs})
        if len(found) > 1:
            raise ConfigError(
                f"runs must be of one {key}, got {found!r}; `specact run` again evaluates a "
                "finished run with the code of today"
            )
    seeds = [_seed(run) for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"runs must differ in their seed, got {seeds!r}")
    return [Repeated(claim=c, values=tuple(c.read(run) for run in runs)) for c in CLAIMS]


def repeats_page(runs: Sequence[JSON]) -> str:
    """The claims of several runs as a Markdown page.

    Raises:
        ConfigError: As `repeated_claims`.
    """
    found = repeated_claims(runs)
    preset = part(runs[0], "meta").get("preset")
    commands = "; ".join(str(part(run, "meta").get("command")) for run in runs)
    return page_markdown(
        Page(
            title=f"Declared claims over {len(runs)} runs: preset {preset}",
            summary=[Paragraph(text=_sizes(runs)), Paragraph(text=f"Runs: {commands}")],
            sections=[Section(title="Claims", blocks=[_table(found, runs)])],
        )
    )


def _sizes(runs: Sequence[JSON]) -> str:
    def range_of(values: Sequence[float]) -> str:
        low, high = min(values), max(values)
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"

    steps = [part(run, "replay").get("num_steps", 0) for run in runs]
    tasks = [part(run, "splits", "test").get("num_tasks", 0) for run in runs]
    minutes = [round(part(run, "meta").get("wall_seconds", 0) / 60, 1) for run in runs]
    machine: Mapping[str, Any] = part(runs[0], "meta", "machine")
    return (
        f"Test steps of families that were trained on: {range_of(steps)} a run; test tasks, "
        f"held-out families included: {range_of(tasks)}. Minutes a run: {range_of(minutes)}, on "
        f"{machine.get('cores')} cores ({machine.get('processor')}), torch {machine.get('torch')}. "
        "All start from the same bases."
    )


def _table(found: Sequence[Repeated], runs: Sequence[JSON]) -> Table:
    return table(
        ("claim", *(f"seed {_seed(run)}" for run in runs), "mean", "holds", "shown"),
        [
            (
                words(row.claim.name),
                *(_cell(row.claim, m) for m in row.values),
                _cell(row.claim, row.mean),
                words(f"{row.num_hold} of {len(runs)}"),
                words(f"{row.num_shown} of {len(runs)}" if row.has_intervals else None),
            )
            for row in found
        ],
        caption=(
            "Differences of shares are in percentage points. In brackets: 95 % intervals over a "
            "run's tasks; for the mean, Student's t over the runs, which takes them as independent "
            "draws of about normal values, from the same bases and settings, or what the runs' own "
            "intervals give it, where that is wider. Holds: the value is on the predicted side. "
            "Shown: the whole interval is. A run without a value does neither."
        ),
    )


def _cell(claim: Claim, m: MetricValue | None) -> Cell:
    if claim.in_points:
        return cell(m, scale=100.0, most=1, signed=True)
    return cell(m)


def _seed(run: JSON) -> Any:
    return part(run, "meta").get("seed")
