"""Finished cells of a LoRA sweep → numbers with intervals over tasks, and what they say together.

Cells that differ in their seed alone are one setting; its rows are those of all its seeds. Knows
neither models nor pages.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from specact_rl.actions.matching import reaches
from specact_rl.eval.lora_sweep import CellRecord, MeasuredRow
from specact_rl.metrics.paired import paired_cluster_bootstrap
from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.resampling import cluster_bootstrap
from specact_rl.metrics.values import MetricValue
from specact_rl.models.lora_cells import Cell

NUM_RESAMPLES = 2_000
NUM_EXAMPLES = 6

RATES: dict[str, Callable[[MeasuredRow], bool | None]] = {
    "unfinished": lambda row: not row.finished,
    "leaked": lambda row: row.num_leaked > 0,
    "parsed": lambda row: row.parsed,
    "unparsed": lambda row: not row.parsed,
    "type": lambda row: reaches(row.match_level, "type"),
    "tool": lambda row: reaches(row.match_level, "tool"),
    "arguments": lambda row: reaches(row.match_level, "arguments"),
    "acceptable": lambda row: row.acceptable,
}
"""Shares of the generated turns; rows that are None do not count."""

PER_TOKEN: dict[str, Callable[[MeasuredRow], float]] = {
    "nll": lambda row: row.nll,
    "kl": lambda row: row.kl,
}
"""Nats a token of the reference turns."""

PER_ROW: dict[str, Callable[[MeasuredRow], float]] = {
    "stop_nll": lambda row: row.stop_nll,
    "repeated": lambda row: row.repeated,
    "num_generated": lambda row: row.num_generated,
}
"""Means over the rows."""

OVER_BASE = ("nll", "unparsed", "unfinished", "leaked")
"""What is compared with the model before training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The finished cells of one setting."""

    cell: Cell
    """Of seed 0."""
    records: list[CellRecord]

    @property
    def rows(self) -> list[MeasuredRow]:
        """Of all seeds that did not diverge."""
        return [row for record in self.records for row in record.measured.rows]


def settings_of(records: Sequence[CellRecord]) -> dict[Cell, Setting]:
    """The settings in the order of their first cells; bases are left out."""
    found: dict[Cell, list[CellRecord]] = {}
    for record in records:
        if record.cell is not None:
            found.setdefault(record.cell.setting, []).append(record)
    return {cell: Setting(cell=cell, records=each) for cell, each in found.items()}


def sweep_results(records: Sequence[CellRecord], seed: int = 0) -> dict[str, Any]:
    """What `results.json` holds of the cells.

    Args:
        records: Bases and cells, as `run_cells` returns them.
        seed: Of the resampled tasks, the same for each number: further cells move no interval.
    """
    settings = settings_of(records)
    rows = records[0].measured.rows
    bases = {record.weights: record for record in records if record.cell is None}
    return {
        "num_rows": len(rows),
        "num_tasks": len({row.task_id for row in rows}),
        "num_cells": sum(record.cell is not None for record in records),
        "bases": [
            {"weights": record.weights, **_numbers([record], record.measured.rows, seed)}
            for record in records
            if record.cell is None
        ],
        "settings": [
            {
                **_cell_fields(setting.cell),
                "seeds": [r.cell.seed for r in setting.records if r.cell is not None],
                "num_diverged": sum(r.measured.diverged for r in setting.records),
                "ends": None
                if (ends := setting.records[0].ends) is None
                else asdict(ends) | {"in_words": ends.in_words},
                "num_steps": setting.records[0].num_steps,
                "seconds": round(sum(r.seconds for r in setting.records), 1),
                **_numbers(setting.records, setting.rows, seed),
                "over_base": _over_base(setting, bases[setting.cell.weights], seed),
                "examples": _examples(setting),
            }
            for setting in settings.values()
        ],
        "contrasts": [
            _contrast(kind, a, b, column, seed)
            for kind, a, b, columns in _pairs(settings)
            for column in columns
        ],
    }


def _cell_fields(cell: Cell) -> dict[str, Any]:
    fields = asdict(cell)
    del fields["seed"]
    return fields | {
        "alpha": cell.alpha,
        "scale": cell.scale,
        "product": float(f"{cell.ratio * cell.learning_rate:.6g}"),
    }


def _numbers(
    records: Sequence[CellRecord], rows: Sequence[MeasuredRow], seed: int
) -> dict[str, Any]:
    names = (*PER_TOKEN, *PER_ROW, *RATES)
    if not rows:
        diverged = MetricValue(value=None, n=0, note="training diverged")
        return {name: asdict(diverged) for name in names} | {"distinct": None, "nll_by_seed": []}
    tasks = [row.task_id for row in rows]
    tokens = [row.num_tokens for row in rows]
    columns = {name: [f(row) for row in rows] for name, f in (PER_TOKEN | PER_ROW).items()}
    drawn = cluster_bootstrap(
        columns | {"tokens": tokens, "rows": [1] * len(rows)},
        tasks,
        rng=np.random.default_rng(seed),
        num_resamples=NUM_RESAMPLES,
    )
    numbers = {
        name: drawn.value(
            lambda t, name=name: t[name] / t["tokens" if name in PER_TOKEN else "rows"],  # type: ignore[misc]
            n=len(rows),
        )
        for name in (*PER_TOKEN, *PER_ROW)
    }
    for name, hit in RATES.items():
        known = [(row.task_id, found) for row in rows if (found := hit(row)) is not None]
        if known:
            numbers[name] = cluster_rate([found for _, found in known], [task for task, _ in known])
        else:
            numbers[name] = MetricValue(value=None, n=0, note="nothing can tell")
    told = [r.measured for r in records if not r.measured.diverged]
    distinct = [m.distinct for m in told if m.distinct is not None]
    return {name: asdict(value) for name, value in numbers.items()} | {
        "distinct": float(np.mean(distinct)) if distinct else None,
        "nll_by_seed": [
            sum(row.nll for row in m.rows) / sum(row.num_tokens for row in m.rows) for m in told
        ],
    }


def _examples(setting: Setting) -> list[dict[str, str]]:
    """Turns that have no end, leak, or cannot be parsed, the first of each row; else none."""
    broken = [row for row in setting.rows if not row.finished or row.num_leaked or not row.parsed]
    return [{"step_id": row.step_id, "text": row.text} for row in broken[:NUM_EXAMPLES]]


_Pair = tuple[str, Setting, Setting, tuple[str, ...]]


def _pairs(settings: Mapping[Cell, Setting]) -> Iterator[_Pair]:
    """Kind of contrast, what is compared with what, and in which numbers."""
    broken = ("unfinished", "leaked", "parsed", "stop_nll")
    for cell, setting in settings.items():
        sound = settings.get(replace(cell, fault="none"))
        if cell.fault != "none" and sound is not None:
            yield cell.fault, setting, sound, broken
    told = {cell: s for cell, s in settings.items() if cell.fault == "none"}
    for kind, key in (("fixed_learning_rate", _at_rate), ("fixed_product", _at_product)):
        for group in _groups(told, key):
            if len({s.cell.ratio for s in group}) < 2:
                continue
            low, high = group[0], group[-1]
            yield kind, high, low, ("nll", "kl", "unfinished", "leaked", "arguments")
    for cell, setting in told.items():
        whole = told.get(replace(cell, weights="float"))
        if cell.weights == "nf4" and whole is not None:
            yield "nf4", setting, whole, ("nll", "unfinished", "leaked", "arguments")
        plain = told.get(replace(cell, rslora=False))
        if cell.rslora and plain is not None:
            yield "rslora", setting, plain, ("nll", "unfinished", "arguments")


def _at_rate(cell: Cell) -> tuple[Any, ...]:
    return cell.weights, cell.r, cell.rslora, cell.learning_rate


def _at_product(cell: Cell) -> tuple[Any, ...]:
    return cell.weights, cell.r, cell.rslora, f"{cell.ratio * cell.learning_rate:.6g}"


def _groups(
    settings: Mapping[Cell, Setting], key: Callable[[Cell], tuple[Any, ...]]
) -> list[list[Setting]]:
    """Settings that share a key, each group by ratio."""
    ordered = sorted(settings.values(), key=lambda s: (key(s.cell), s.cell.ratio))
    return [list(g) for _, g in itertools.groupby(ordered, key=lambda s: key(s.cell))]


def _contrast(kind: str, a: Setting, b: Setting, column: str, seed: int) -> dict[str, Any]:
    """The number of a minus that of b, on the rows of their common seeds."""
    found = list(_common_rows(a, b))
    difference = _difference([pair for _, pair in found], column, seed)
    return {
        "kind": kind,
        "column": column,
        "a": _cell_fields(a.cell),
        "b": _cell_fields(b.cell),
        "num_seeds": len({seed for seed, _ in found}),
        "difference": asdict(difference),
    }


_RowPair = tuple[MeasuredRow, MeasuredRow]


def _difference(pairs: Sequence[_RowPair], column: str, seed: int) -> MetricValue:
    """First minus second of each pair; two rows of a pair are of one step."""
    if not pairs:
        return MetricValue(value=None, n=0, note="no seed in common that did not diverge")
    tasks, rng = [row.task_id for row, _ in pairs], np.random.default_rng(seed)
    if column in PER_TOKEN:
        read = PER_TOKEN[column]
        drawn = cluster_bootstrap(
            {
                "difference": [read(x) - read(y) for x, y in pairs],
                "tokens": [x.num_tokens for x, _ in pairs],
            },
            tasks,
            rng=rng,
            num_resamples=NUM_RESAMPLES,
        )
        return drawn.value(lambda t: t["difference"] / t["tokens"], n=len(pairs))
    value: Callable[[MeasuredRow], Any] = PER_ROW.get(column) or RATES[column]
    return paired_cluster_bootstrap(
        [float(value(x)) for x, _ in pairs],
        [float(value(y)) for _, y in pairs],
        tasks,
        rng=rng,
        num_resamples=NUM_RESAMPLES,
    )


def _over_base(setting: Setting, base: CellRecord, seed: int) -> dict[str, Any]:
    """Against the model before training over the same weights, on the same rows."""
    before = {row.step_id: row for row in base.measured.rows}
    pairs = [(row, before[row.step_id]) for row in setting.rows]
    return {column: asdict(_difference(pairs, column, seed)) for column in OVER_BASE}


def _common_rows(a: Setting, b: Setting) -> Iterator[tuple[int, _RowPair]]:
    others = {r.cell.seed: r for r in b.records if r.cell is not None}
    for record in a.records:
        if record.cell is None or record.cell.seed not in others:
            continue
        other = {row.step_id: row for row in others[record.cell.seed].measured.rows}
        for row in record.measured.rows:
            if row.step_id in other:
                yield record.cell.seed, (row, other[row.step_id])
