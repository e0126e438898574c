"""Sections about single models: proposers, ranking, baselines, verifiers."""

from __future__ import annotations

from collections.abc import Sequence

from specact_rl.eval.report import figures
from specact_rl.eval.report.blocks import Block, Cell, Paragraph, Section, Table, table, words
from specact_rl.eval.report.lookup import action_type_title, part, rows, verifier_title
from specact_rl.eval.report.numbers import (
    JSON,
    cell,
    fixed,
    metric,
    parameters,
    percent,
    points,
    say_rows,
)
from specact_rl.types import ACTION_TYPES

GROUPS = {"all": "all", "in_family": "in family", "out_of_family": "out of family"}
LEVELS = {
    "parsed": "parsed, %",
    "type": "type, %",
    "tool": "tool, %",
    "arguments": "arguments, %",
    "same_state": "same state, %",
    "acceptable": "acceptable, %",
}

OF_MODELS = (
    "Free generation, greedy, through the parser. Each level includes the ones before it: same "
    "action type, same tool, same arguments; same state and acceptable are the environment's "
    "verdicts. Out of family: tasks of families that no model was trained on."
)
OF_TABLE = "First answers at the test steps, judged as the table says."
OF_LOG = (
    "First answers at the test steps; parsed: at least one call, or text without one, can be read "
    "in them."
)


def proposers_section(results: JSON) -> Section | None:
    """Free text, ranking and baselines, each in a table of its own."""
    found = [
        block
        for block in (
            _proposers(rows(results, "replay", "proposers"), _caption(results)),
            _samples(rows(results, "replay", "proposers")),
            _ranking(rows(results, "replay", "ranking")),
            _baselines(rows(results, "replay", "baselines")),
        )
        if block is not None
    ]
    return Section(title="Proposers", blocks=list[Block](found), folded=True) if found else None


def _caption(results: JSON) -> str:
    if part(results, "meta", "study"):
        return OF_LOG
    return OF_TABLE if part(results, "meta", "table") else OF_MODELS


def _proposers(found: Sequence[JSON], caption: str) -> Table | None:
    lines = []
    for row in found:
        for group, title in GROUPS.items():
            here = part(row, "groups").get(group)
            if here:
                first = group == "all"
                acceptable = metric(here, "acceptable")
                lines.append(
                    (
                        words(row["role"] if first else ""),
                        words(parameters(row.get("num_params")) if first else ""),
                        words(title),
                        words(acceptable.n if acceptable else None),
                        *(percent(metric(here, level)) for level in LEVELS),
                    )
                )
    if not lines:
        return None
    return table(
        ("model", "parameters", "steps", "n", *LEVELS.values()),
        lines,
        caption=caption,
        num_words=3,
    )


def _samples(found: Sequence[JSON]) -> Table | None:
    several = [row for row in found if (row.get("num_samples") or 1) > 1]
    if not several:
        return None
    return table(
        ("model", "samples", "distinct", "independent draws", "acceptable in 1, 2, … samples, %"),
        [
            (
                words(row["role"]),
                words(row["num_samples"]),
                words(fixed(row["num_distinct"], 2)),
                words(None if row["effective_k"] is None else fixed(row["effective_k"], 2)),
                words(" · ".join(fixed(100 * share, 1) for share in row["coverage"])),
            )
            for row in several
        ],
        caption=(
            "What several samples offer: distinct parsable actions per step, the number of "
            "independent draws that would cover as much, and the share of steps with at least one "
            "acceptable sample; on families that were trained on."
        ),
    )


def _ranking(found: Sequence[JSON]) -> Table | None:
    if not found:
        return None
    return table(
        ("model", "candidates", "chance, %", "arguments, %", "acceptable, %"),
        [
            (
                words(row["role"]),
                words(fixed(row["num_candidates"], 1)),
                words(fixed(100.0 * row["chance"], 1)),
                percent(metric(row, "arguments")),
                percent(metric(row, "acceptable")),
            )
            for row in found
        ],
        caption=(
            "Ranking: the candidate with the highest log-probability among the state's listed "
            f"actions, {say_rows(metric(found[0], 'acceptable'))}. Never comparable with free text."
        ),
    )


def _baselines(found: Sequence[JSON]) -> Table | None:
    if not found:
        return None
    return table(
        ("baseline", "arguments, %", "cheap − baseline, points"),
        [
            (
                words(str(row["name"]).replace("_", " ")),
                percent(metric(row, "arguments")),
                points(metric(row, "cheap_minus_baseline")),
            )
            for row in found
        ],
        caption=(
            "What no language model is needed for, at the arguments level, "
            f"{say_rows(metric(found[0], 'arguments'))}."
        ),
    )


def verifiers_section(results: JSON) -> Section | None:
    """Discrimination, calibration and gain over the free ones."""
    found = rows(results, "replay", "verifiers")
    if not found:
        return None
    blocks: list[Block | None] = [
        _verifiers(found),
        _gains(found),
        figures.risk_coverage(results),
        _within_types(found),
    ]
    blocks += [
        Paragraph(
            text=(
                f"Threshold of {row['system']}, on the calibration tasks that chose it: "
                f"{row['gate_message']}."
            )
        )
        for row in found
        if row.get("gate_message") and row.get("system") == "D"
    ]
    present = [block for block in blocks if block is not None]
    return Section(title="Verifiers", blocks=present)


def _verifiers(found: Sequence[JSON]) -> Table:
    return table(
        (
            "verifier",
            "system",
            "n",
            "unparsable",
            "no label",
            "acceptable, %",
            "AUROC",
            "Brier skill",
            "debiased ECE",
            "… if calibrated",
            "AURC",
            "calibrator",
            "threshold",
        ),
        [
            (
                words(verifier_title(str(row["name"]))),
                words(row.get("system")),
                words(row.get("n")),
                words(row.get("num_unparsable")),
                words(row.get("num_unlabelled") or None),
                percent(metric(row, "base_rate")),
                cell(metric(row, "auroc")),
                cell(metric(row, "brier_skill"), most=2),
                cell(metric(row, "debiased_ece")),
                words(_band(row)),
                words(fixed(row["aurc"], 3) if row.get("aurc") is not None else None),
                words(row.get("calibrator")),
                words("none" if row.get("threshold") is None else fixed(row["threshold"], 2)),
            )
            for row in found
        ],
        caption=(
            "On greedy proposals that could be judged. Brier skill: gain over always saying the "
            "base rate. Debiased ECE is to be held against the range that perfectly calibrated "
            "probabilities give on these rows. AURC: mean selective risk over all accept rates, "
            "lower is better. Threshold none accepts nothing, 0.00 everything."
        ),
        num_words=2,
    )


def _band(row: JSON) -> str | None:
    band = part(row, "null_band")
    if band.get("low") is None or band.get("high") is None:
        return None
    return f"{fixed(band['low'], 3)} to {fixed(band['high'], 3)}"


def _gains(found: Sequence[JSON]) -> Table | None:
    free = list(dict.fromkeys(name for row in found for name in part(row, "gain_over")))
    judges = [row for row in found if part(row, "gain_over")]
    if not free:
        return None
    return table(
        ("verifier", *(f"over {verifier_title(name)}" for name in free)),
        [
            (
                words(f"{verifier_title(str(row['name']))} ({row.get('system')})"),
                *(cell(metric(part(row, "gain_over"), name), signed=True) for name in free),
            )
            for row in judges
        ],
        caption="Gain in AUROC over other verifiers, paired on the same proposals.",
    )


def _within_types(found: Sequence[JSON]) -> Table | None:
    kinds = [t for t in ACTION_TYPES if any(t in part(r, "auroc_within_types") for r in found)]
    if not kinds:
        return None

    def number(row: JSON, kind: str) -> Cell:
        return cell(metric(part(row, "auroc_within_types"), kind), most=2, count=True)

    return table(
        ("verifier", "pairs of one step", "pairs of one type", *map(action_type_title, kinds)),
        [
            (
                words(f"{verifier_title(str(row['name']))} ({row.get('system')})"),
                cell(metric(row, "auroc_same_step")),
                cell(metric(row, "auroc_same_type")),
                *(number(row, kind) for kind in kinds),
            )
            for row in found
        ],
        caption=(
            "AUROC within proposals of one action type, where there are enough of them: what is "
            "left when knowing the type does not help. Pairs of one type: over all types at once. "
            "Pairs of one step: over the distinct samples of each step, for verifiers that judge "
            "several; what is left when knowing how hard the step is does not help, and what "
            "choosing among proposals needs."
        ),
    )
