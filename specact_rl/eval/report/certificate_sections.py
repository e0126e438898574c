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
    "task": "whole tasks (Hoeffding–Bentkus)",
    "conformal": "in expectation (conformal)",
}
HOW_TO_READ = (
    "Three promises about new tasks like those of calibration. Exact: the share wrong among "
    "accepted steps, one step drawn from each task. Whole tasks: the share wrong among the "
    "accepted steps of a task, averaged over tasks that have one. In expectation: the share of a "
    "task's steps that are accepted and wrong, on average over calibrations too; a gate that "
    "accepts little keeps it, whatever it accepts. A promise made in replay does not carry over "
    "to live episodes: there an accepted mistake changes the steps that follow, so that they are "
    "no longer like those of calibration."
)


def promise_of_d(results: JSON) -> Iterator[Finding]:
    """Can a threshold of D promise that at most `SPOKEN` of what it accepts is wrong?"""
    yield from _findings([r for r in rows(results, "replay", "certificates") if r["system"] == "D"])


def certificates_section(results: JSON) -> Section | None:
    """Verdicts at 5 %, certificates of the main systems, ranking areas; None without any."""
    found = rows(results, "replay", "certificates")
    if not found:
        return None
    main = [row for row in found if row["system"] in MAIN_SYSTEMS] or found
    certified = certificates_table(main)
    blocks: list[Block] = [
        Paragraph(text=HOW_TO_READ),
        Findings(items=tuple(_findings(main))),
        feasibility_table(found),
        certified
        or Paragraph(text="None of the three promises can be made at any of these targets."),
        selective_table(found),
    ]
    return Section(title="What a threshold can promise", blocks=blocks)


def feasibility_table(found: list[JSON]) -> Table:
    """By system and target: how much can be accepted, certified, in hindsight and at best."""
    targets = [target["target"] for target in found[0]["targets"]]
    perfect: dict[tuple[str, ...], list[str]] = {}
    for row in found:
        best = tuple(_share(target["oracle_accept_rate"]) for target in row["targets"])
        perfect.setdefault(best, []).append(str(row["system"]))
    return table(
        ("system", *(f"{_percent(target)} % wrong" for target in targets)),
        [(words(row["system"]), *map(_feasible, row["targets"])) for row in found]
        + [
            (Cell(main="perfect verifier", below=f"of {', '.join(names)}"), *map(words, best))
            for best, names in perfect.items()
        ],
        caption=(
            "Most that can be accepted, %, with so many wrong among the accepted: certified with "
            f"confidence {_confidence(found)} %, a dash where nothing is. Below it, in hindsight: "
            "the most at an observed share within the target; and about how many more tasks would "
            "more likely than not certify something, if the observed shares are the true ones. A "
            "perfect verifier makes no mistake in telling right from wrong. Calibration tasks that "
            f"no calibrator was fitted on; shares are of n = {_tasks(found)}."
        ),
    )


def _feasible(target: JSON) -> Cell:
    exact = next(c for c in target["certificates"] if c["method"] == "exact")
    rate = target.get("certified_accept_rate", exact["calibration_accept_rate"])
    tasks = f", +{target['more_tasks']} tasks" if target["more_tasks"] else ""
    return Cell(
        main="–" if exact["threshold"] is None else _share(rate),
        below=f"{_share(target['met_accept_rate'])}{tasks}",
    )


def certificates_table(found: list[JSON]) -> Table | None:
    """What is promised, and what it does on the test; None where nothing is."""
    promised = [
        (row, target, certificate)
        for row in found
        for target in row["targets"]
        for certificate in target["certificates"]
        if certificate["threshold"] is not None
    ]
    if not promised:
        return None
    return table(
        (
            "system",
            "promise",
            "at most, %",
            "threshold",
            "accepted then, %",
            "accepted, %",
            "what is promised, %",
            "wrong among accepted, %",
        ),
        [
            (
                words(row["system"]),
                words(METHODS[certificate["method"]]),
                words(_percent(target["target"])),
                words(fixed(float(certificate["threshold"]), 3)),
                words(_share(certificate["calibration_accept_rate"])),
                percent(metric(certificate, "accept_rate")),
                percent(metric(certificate, "controlled_risk")),
                percent(metric(certificate, "selective_risk"), count=True),
            )
            for row, target, certificate in promised
        ],
        caption=(
            "Every promise that the calibration tasks allow (accepted then: of their steps, those "
            "without a score included), and what its threshold does on the "
            "test split, which chose nothing (95 % intervals over tasks). Lines of the first two "
            f"kinds hold with confidence {_confidence(found)} % each, not all at once. What is "
            "promised is to be held against at most. Wrong among "
            "accepted counts steps, so that long tasks weigh more; where all tasks have one step "
            "it is what the first promise is about."
        ),
        num_words=2,
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


def _findings(found: list[JSON]) -> Iterator[Finding]:
    for row in found:
        target = next((t for t in row["targets"] if t["target"] == SPOKEN), None)
        if target is None:
            continue
        held = {c["method"]: c for c in target["certificates"] if c["threshold"] is not None}
        # "no threshold certifies ...; at most ...; ...": the first part is the claim.
        said, *more = str(target["message"]).split("; ")
        if "exact" not in held and "task" in held:
            said = (
                f"{_percent(SPOKEN)} % wrong among the accepted is certified as a mean over tasks, "
                f"at {_share(held['task']['calibration_accept_rate'])} % accepted, but not for one "
                "step drawn from each"
            )
        kept = held.get("exact") or held.get("task")
        yield Finding(
            status="open" if kept is None else "note",
            claim=f"{row['system']}: {said}.",
            evidence=f"{_sentences(more)}{_evidence(row, kept)}",
        )


def _sentences(parts: list[str]) -> str:
    return "".join(f"{said[0].upper()}{said[1:]}. " for said in parts)


def _evidence(row: JSON, certificate: JSON | None) -> str:
    then = row["calibration"]
    text = f"Calibration: n = {then['num_scored']} scored steps of {then['num_tasks']} tasks."
    if certificate is None:
        return text
    return (
        f"{text} On the test it accepts {say_percent(metric(certificate, 'accept_rate'))}; what "
        f"was promised comes to {say_percent(metric(certificate, 'controlled_risk'))}, and of all "
        f"accepted steps {say_percent(metric(certificate, 'selective_risk'))} are wrong."
    )


def _tasks(found: list[JSON]) -> str:
    steps = [row["calibration"]["num_scored"] for row in found]
    tasks = max(row["calibration"]["num_tasks"] for row in found)
    low, high = min(steps), max(steps)
    return f"{low if low == high else f'{low} to {high}'} scored steps of {tasks} tasks"


def _confidence(found: list[JSON]) -> str:
    return _percent(1.0 - float(found[0]["delta"]))


def _percent(share: float) -> str:
    return f"{100.0 * share:.3g}"


def _share(value: float) -> str:
    return fixed(100.0 * float(value), 1)
