"""What a threshold can promise: feasibility in words, and certificates measured on the test."""

from __future__ import annotations

from collections.abc import Iterator

from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Finding,
    Findings,
    Paragraph,
    Section,
    Table,
    table,
    words,
)
from specact_rl.eval.report.lookup import MAIN_SYSTEMS, rows, verifier_title
from specact_rl.eval.report.numbers import JSON, cell, fixed, metric, percent, say_percent

SPOKEN = 0.05
"""Target that the findings are about; the table has the others."""
METHODS = {
    "exact": "exact, one step per task",
    "task": "whole tasks, Hoeffding–Bentkus",
    "conformal": "conformal, in expectation",
}
NOT_LIVE = (
    "A promise made in replay does not carry over to live episodes: there an accepted mistake "
    "changes the steps that follow, so that they are no longer like those of calibration."
)


def certificates_section(results: JSON) -> Section | None:
    """Verdicts at 5 %, certificates of the main systems, ranking areas; None without any."""
    found = rows(results, "replay", "certificates")
    if not found:
        return None
    main = [row for row in found if row["system"] in MAIN_SYSTEMS] or found
    blocks: list[Block] = [
        Paragraph(text=_how_to_read(main[0])),
        Findings(items=tuple(_findings(main))),
        certificates_table(main),
        selective_table(found),
    ]
    return Section(title="What a threshold can promise", blocks=blocks)


def certificates_table(found: list[JSON]) -> Table:
    """By system and target: what is certified by each method, and what it does on the test."""
    return table(
        (
            "system",
            "target, %",
            "perfect verifier, %",
            "observed in hindsight, %",
            "promise",
            "threshold",
            "accepted then, %",
            "accepted on test, %",
            "wrong among accepted on test, %",
            "what is promised, on test, %",
        ),
        [
            (
                words(row["system"] if first else None),
                words(_target(target) if first_of_target else None),
                words(_share(target["oracle_accept_rate"]) if first_of_target else None),
                words(_share(target["met_accept_rate"]) if first_of_target else None),
                words(METHODS[certificate["method"]]),
                *_certificate(certificate),
            )
            for row in found
            for first, first_of_target, target, certificate in _lines(row)
        ],
        caption=(
            "Thresholds from the half of the calibration tasks that no calibrator was fitted on "
            f"({_tasks(found)}); the test split chose nothing. Perfect verifier and observed in "
            "hindsight: most that can be accepted with so many wrong among the accepted, by any "
            "verifier and by this one. A dash: nothing is certified, and nothing accepted. Each "
            "line is a promise by itself, with confidence "
            f"{fixed(100.0 * (1.0 - float(found[0]['delta'])), 0)} % where it has one; 95 % "
            "intervals over tasks."
        ),
        num_words=1,
    )


def _lines(row: JSON) -> Iterator[tuple[bool, bool, JSON, JSON]]:
    for i, target in enumerate(row["targets"]):
        for j, certificate in enumerate(target["certificates"]):
            yield i == j == 0, j == 0, target, certificate


def _certificate(certificate: JSON) -> tuple[Cell, ...]:
    if certificate["threshold"] is None:
        return (words("–"), *([words(None)] * 4))
    return (
        words(fixed(float(certificate["threshold"]), 3)),
        words(_share(certificate["calibration_accept_rate"])),
        percent(metric(certificate, "accept_rate")),
        percent(metric(certificate, "selective_risk"), count=True),
        percent(metric(certificate, "controlled_risk")),
    )


def selective_table(found: list[JSON]) -> Table:
    """How each gated system ranks, and the two errors of its gate as it stands."""
    return table(
        ("system", "verifier", "AURC", "E-AURC", "AUGRC", "false accepts, %", "false rejects, %"),
        [
            (
                words(row["system"]),
                words(verifier_title(str(row["verifier"]))),
                cell(metric(row, "aurc")),
                cell(metric(row, "e_aurc")),
                cell(metric(row, "augrc")),
                percent(metric(row, "false_accept_rate"), count=True),
                percent(metric(row, "false_reject_rate"), count=True),
            )
            for row in found
        ],
        caption=(
            "On the test split, 95 % intervals over tasks. AURC: mean share wrong among the "
            "accepted over all accept rates; E-AURC: above that of a perfect ranking; AUGRC: mean "
            "share accepted and wrong. Lower is better. False accepts are among wrong proposals, "
            "false rejects among right ones, at the gate's own threshold."
        ),
        num_words=2,
    )


def _how_to_read(row: JSON) -> str:
    return (
        "Three promises about new tasks like those of calibration. Exact: the share wrong among "
        "accepted steps, one step drawn from each task. Whole tasks: the share wrong among the "
        "accepted steps of a task, averaged over tasks that have one. Conformal: the share of a "
        "task's steps that are accepted and wrong, on average over calibrations too; accepting "
        f"little keeps it whatever is accepted. {NOT_LIVE}"
    )


def _findings(found: list[JSON]) -> Iterator[Finding]:
    for row in found:
        target = next((t for t in row["targets"] if t["target"] == SPOKEN), None)
        if target is None:
            continue
        certified = [c for c in target["certificates"] if c["method"] == "exact"]
        threshold = certified[0]["threshold"] if certified else None
        message = str(target["message"])
        yield Finding(
            status="note" if threshold is not None else "open",
            claim=f"{row['system']}: {message}.",
            evidence=_evidence(row, certified[0] if certified else None),
        )


def _evidence(row: JSON, certificate: JSON | None) -> str:
    then = row["calibration"]
    text = f"Calibration: n = {then['num_scored']} scored steps of {then['num_tasks']} tasks."
    if certificate is None or certificate["threshold"] is None:
        return text
    return (
        f"{text} On the test it accepts {say_percent(metric(certificate, 'accept_rate'))}, of "
        f"which {say_percent(metric(certificate, 'selective_risk'))} are wrong."
    )


def _tasks(found: list[JSON]) -> str:
    counts = sorted(
        {(r["calibration"]["num_scored"], r["calibration"]["num_tasks"]) for r in found}
    )
    steps = [n for n, _ in counts]
    low, high = min(steps), max(steps)
    return f"{low if low == high else f'{low} to {high}'} scored steps of {counts[-1][1]} tasks"


def _target(target: JSON) -> str:
    return f"{100.0 * float(target['target']):g}"


def _share(value: float) -> str:
    return fixed(100.0 * float(value), 1)
