"""Calibration: diagrams, every ECE beside its null band, parts, drift, and other calibrators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Finding,
    Findings,
    Paragraph,
    Section,
    Status,
    Table,
    table,
    words,
)
from specact_rl.eval.report.judging import ALPHA, listed
from specact_rl.eval.report.lookup import action_type_title, part, rows, verifier_title
from specact_rl.eval.report.numbers import (
    DASH,
    JSON,
    cell,
    direction,
    fixed,
    metric,
    p_value,
    percent,
    points,
    say,
    say_points,
)
from specact_rl.eval.report.reliability_figure import (
    main_row,
    other_reliabilities,
    reliability,
)
from specact_rl.metrics.values import MetricValue

ECES = {
    "ece": "ECE, equal width",
    "ece_equal_mass": "ECE, equal mass",
    "ece_sweep": "ECE, sweep",
    "debiased_ece": "debiased ECE",
}
CALIBRATORS = {
    "none": "raw score",
    "chosen": "chosen by rule",
    "prior_shift": "prior shift (trained half and half)",
}
PLACES = {
    "splits": "from the calibration tasks that chose its threshold to the test tasks",
    "policies": "from the proposals it was fitted for to those of the DPO proposer",
    "families": "from families that were trained on to families that were held out",
    "live": "from replayed steps to the states that it gets into in whole episodes",
}
FOR_WORDS = {
    "select": "calibration",
    "test": "test",
    "proposals of cheap": "test, cheap proposer",
    "proposals of cheap_dpo": "test, DPO proposer",
    "replayed steps of the live tasks": "replay, same tasks",
    "live episodes": "live",
}

OF_LIVE = (
    " Live: at the steps of the system's own episodes, with the label that its proposal has there, "
    "accepted or not."
)


def calibration_section(results: JSON) -> Section | None:
    """All that says how far the probabilities can be trusted."""
    found = part(results, "replay", "calibration")
    items = tuple([*_of_parts(found), *_of_drift(found), *_of_calibrators(found)])
    blocks: list[Block | None] = [
        Findings(items=items) if items else None,
        reliability(results),
        *_metrics(rows(found, "verifiers")),
        other_reliabilities(results),
        _parts(part(found, "parts")),
        _drift(rows(found, "drift")),
        _calibrators(rows(found, "recalibration"), main_row(results)),
        _others_calibrators(rows(found, "recalibration")),
        *_notes(rows(found, "recalibration")),
    ]
    present = [block for block in blocks if block is not None]
    return Section(title="Calibration", blocks=present) if present else None


# ---------------------------------------------------------------- in words


def _of_parts(found: JSON) -> Iterator[Finding]:
    """Are the probabilities off for some kind of action, tool, step or family?"""
    of = part(found, "parts")
    tested = [row for row in rows(of, "rows") if row.get("p_holm") is not None]
    if not tested:
        return
    off = [row for row in tested if row["p_holm"] <= ALPHA]
    name, noted = of["system"], [row for row in tested if row["p_value"] <= ALPHA]
    evidence = (
        f"{len(tested)} parts of at least {of['min_rows']} proposals were tested: by action type, "
        f"tool, step and family. p is at most {ALPHA} in {len(noted)} of them, after Holm's "
        f"correction over all {len(tested)} in {len(off)}."
    )
    if off:
        told = [f"{_part_name(row)} {_too(metric(row, 'gap'))}" for row in off[:6]]
        more = f"; and {len(off) - 6} more" if len(off) > 6 else ""
        yield Finding(
            status="against",
            claim=f"{name}'s probabilities are off in some parts.",
            evidence=f"{evidence} These: {'; '.join(told)}{more}.",
        )
        return
    widest = max(tested, key=lambda row: abs(_number(metric(row, "gap"))))
    yield Finding(
        status="open",
        claim=f"It is not shown that {name}'s probabilities are off in any one part.",
        evidence=(
            f"{evidence} The largest gap is that of {_part_name(widest)}: "
            f"{say_points(metric(widest, 'gap'))}, n = {widest['n']}."
        ),
    )


def _of_drift(found: JSON) -> Iterator[Finding]:
    """Do the probabilities mean the same elsewhere?"""
    main = part(found, "parts").get("system")
    for row in rows(found, "drift"):
        if row["system"] != main:
            continue
        gap, slope = (
            metric(part(row, "difference"), "gap"),
            metric(part(row, "difference"), "slope"),
        )
        sides = [direction(gap), direction(slope)]
        status: Status = "open"
        text = f"It is not shown that {main}'s probabilities drift {PLACES[row['kind']]}."
        if "above" in sides or "below" in sides:
            status, text = "against", f"{main}'s probabilities drift {PLACES[row['kind']]}."
        elif sides == ["unknown", "unknown"]:
            status = "unknown"
            text = f"Whether {main}'s probabilities drift {PLACES[row['kind']]} cannot be said."
        first, second = metric(part(row, "first"), "gap"), metric(part(row, "second"), "gap")
        yield Finding(
            status=status,
            claim=text,
            evidence=(
                f"Observed less promised: {_place(row['from'])} {say_points(first)}, n = "
                f"{_rows(first)}; {_place(row['to'])} {say_points(second)}, n = {_rows(second)}; a "
                f"change of {say_points(gap)}. Slope on log-odds "
                f"{say(metric(part(row, 'second'), 'slope'), most=2)}, a change of "
                f"{say(slope, most=2, signed=True)}."
            ),
        )


def _of_calibrators(found: JSON) -> Iterator[Finding]:
    """Would another calibrator have been better?"""
    main = part(found, "parts").get("system")
    row = next((r for r in rows(found, "recalibration") if r["system"] == main), None)
    if row is None or not row["rows"]:
        return
    named = {r["name"]: metric(r, "minus_own") for r in row["rows"] if r.get("minus_own")}
    own = _calibrator(row["chosen_for_gate"])
    better = [_calibrator(name) for name, m in named.items() if direction(m) == "below"]
    worse = [_calibrator(name) for name, m in named.items() if direction(m) == "above"]
    raw = named.get("none")
    evidence = f"Held-out log loss on {row['n']} calibration proposals, tasks in five folds."
    if better:
        evidence += f" Lower than {own}'s: {listed(better)}."
    if worse:
        evidence += f" Higher than {own}'s: {listed(worse)}."
    if raw is not None:
        evidence += f" The raw score's less {own}'s: {say(raw, 'nats', most=3, signed=True)}."
    status: Status = "against" if better else "open"
    text = f"It is not shown that another calibrator than {own} would suit {main}'s scores better."
    if better:
        text = f"Another calibrator than {own}, which the gate has, suits {main}'s scores better."
    yield Finding(status=status, claim=text, evidence=evidence)


def _place(name: str) -> str:
    return FOR_WORDS.get(name, name)


def _too(gap: MetricValue | None) -> str:
    """Which way the probabilities are off."""
    if gap is None or gap.value is None:
        return ""
    way = {"above": "are too low by", "below": "are too high by"}.get(direction(gap))
    if way is None:
        return f"({say_points(gap)}; off in both directions)"
    size = MetricValue(
        value=abs(gap.value),
        low=None if gap.low is None or gap.high is None else min(abs(gap.low), abs(gap.high)),
        high=None if gap.low is None or gap.high is None else max(abs(gap.low), abs(gap.high)),
        n=gap.n,
    )
    return f"{way} {say(size, 'points', scale=100.0, most=1)} (n = {gap.n})"


def _number(m: MetricValue | None) -> float:
    return 0.0 if m is None or m.value is None else m.value


def _rows(m: MetricValue | None) -> int | str:
    return DASH if m is None else m.n


# ---------------------------------------------------------------- tables


def _metrics(found: Sequence[JSON]) -> list[Table]:
    """Errors by bins with their null bands, and what needs no bins."""
    if not found:
        return []
    who = [
        (words(verifier_title(str(row["name"]))), words(row["system"]), words(row["n"]))
        for row in found
    ]
    by_bins = table(
        ("verifier", "system", "n", *ECES.values(), "p, tasks dependent", "correlation"),
        [
            (
                *whose,
                *(_band(part(row, "bands", name)) for name in ECES),
                _test(part(row, "clustered_test")),
                _correlation(part(row, "clustered_test")),
            )
            for whose, row in zip(who, found, strict=True)
        ],
        caption=(
            "Test split, each gate's own calibrator. Below each error: the range that right "
            "probabilities give on these proposals if labels are independent, and the share of "
            "such data sets that look as bad. All but the debiased ECE are biased upwards: hold "
            "each against its range, never against 0. Correlation: how alike the labels of one "
            "task are beyond their probabilities; p, tasks dependent: the question of the "
            "equal-mass ECE with it."
        ),
        num_words=2,
    )
    without = table(
        (
            "verifier",
            "system",
            "n",
            "observed − promised, points",
            "slope",
            "intercept",
            "Spiegelhalter z",
            "log loss",
            "reliability",
            "resolution",
            "AUPRC",
        ),
        [
            (
                *whose,
                points(metric(row, "gap")),
                cell(metric(row, "slope"), most=2),
                cell(metric(row, "intercept"), most=2, signed=True),
                _spiegelhalter(part(row, "spiegelhalter")),
                words(fixed(row["log_loss"], 3)),
                words(fixed(row["brier"]["reliability"], 4)),
                words(fixed(row["brier"]["resolution"], 4)),
                cell(metric(row, "auprc")),
            )
            for whose, row in zip(who, found, strict=True)
        ],
        caption=(
            "How they are off. Observed less promised: above 0 the probabilities are too low. "
            "Slope and intercept: of the label's log-odds on those of the probability; right are 1 "
            "and 0, a slope below 1 is too extreme. Spiegelhalter: is the Brier score what the "
            "probabilities promise? Above 0 overconfident. Reliability (lower is better) and "
            "resolution (higher) are terms of the Brier score, in ten bins of equal mass. AUPRC: "
            "chance is the share acceptable. Intervals and tests take the steps of a task as "
            "dependent."
        ),
        num_words=2,
    )
    return [by_bins, without]


def _band(band: JSON) -> Cell:
    if not band or band.get("observed") is None:
        return Cell(main=DASH, note=band.get("note") if band else None)
    below = (
        f"{fixed(band['low'], 3)} to {fixed(band['high'], 3)}, p {_p(band['p_value'])}"
        if band.get("low") is not None
        else ""
    )
    return Cell(main=fixed(band["observed"], 3), below=below, note=band.get("note"))


def _p(p: float | None) -> str:
    shown = p_value(p)
    if shown is None:
        return DASH
    return shown if shown.startswith("<") else f"= {shown}"


def _test(test: JSON) -> Cell:
    if not test or test.get("p_value") is None:
        return Cell(main=DASH, note=test.get("note") if test else None)
    return Cell(main=p_value(test["p_value"]) or DASH, note=test.get("note"))


def _correlation(test: JSON) -> Cell:
    found = test.get("correlation") if test else None
    return words(None if found is None else fixed(found, 2))


def _spiegelhalter(test: JSON) -> Cell:
    if not test or test.get("statistic") is None:
        return Cell(main=DASH, note=test.get("note") if test else None)
    return Cell(
        main=fixed(test["statistic"], 2, signed=True),
        below=f"p {_p(test['p_value'])}",
        note=test.get("note"),
    )


def _parts(of: JSON) -> Table | None:
    found = [row for row in rows(of, "rows") if row.get("gap") is not None]
    if not found:
        return None
    small = [f"{_part_name(row)} ({row['n']})" for row in rows(of, "rows") if row not in found]
    left_out = [
        f"{rest['parts']} more of {name} with {rest['rows']} proposals in all"
        for name, rest in part(of, "left_out").items()
    ]
    rest = ""
    if small:
        rest += f" Fewer than {of['min_rows']} proposals, no numbers: {', '.join(small)}."
    if left_out:
        rest += f" Not looked at: {'; '.join(left_out)}."
    return table(
        (
            "by",
            "part",
            "n",
            "acceptable, %",
            "mean p, %",
            "observed − promised, points",
            "AUROC",
            "Brier",
            "Brier skill",
            "debiased ECE",
            "p",
            "Holm p",
        ),
        [
            (
                words(row["partition"]),
                words(_plain_part(row)),
                words(row["n"]),
                percent(metric(row, "prevalence")),
                words(fixed(100.0 * row["mean_p"], 1)),
                points(metric(row, "gap")),
                cell(metric(row, "auroc"), most=2),
                words(fixed(row["brier"], 3)),
                cell(metric(row, "brier_skill"), most=2),
                _band(part(row, "null_band")),
                words(p_value(row.get("p_value"))),
                words(p_value(row.get("p_holm"))),
            )
            for row in found
        ],
        caption=(
            f"{of['system']}'s verifier by the type and tool of the proposal, the step's number "
            "(from 0), and the task's family; test split. p: are all probabilities of the part "
            "right? Steps of a task taken as dependent; Holm's correction is over all parts in the "
            f"table, because many are looked at.{rest}"
        ),
        num_words=2,
    )


def _part_name(row: JSON) -> str:
    return f"{row['partition']} {_plain_part(row)}"


def _plain_part(row: JSON) -> str:
    if row["partition"] == "action type":
        return action_type_title(str(row["name"]))
    return str(row["name"])


def _drift(found: Sequence[JSON]) -> Table | None:
    if not found:
        return None
    return table(
        (
            "system",
            "from",
            "to",
            "observed − promised, points: from",
            "to",
            "change",
            "slope: from",
            "to",
            "change",
        ),
        [
            (
                words(row["system"]),
                words(_place(row["from"])),
                words(_place(row["to"])),
                _gap(part(row, "first")),
                _gap(part(row, "second")),
                points(metric(part(row, "difference"), "gap")),
                cell(metric(part(row, "first"), "slope"), most=2),
                cell(metric(part(row, "second"), "slope"), most=2),
                cell(metric(part(row, "difference"), "slope"), most=2, signed=True),
            )
            for row in found
        ],
        caption=(
            "The same gate in two places: how far what was observed is from what was promised, and "
            "the slope of the label's log-odds on those of the probability (1 is right, below 1 is "
            "too extreme). Intervals are over tasks; places with the same tasks are paired. The "
            "calibration tasks here chose thresholds; the calibrators were fitted on others."
            + (OF_LIVE if any(row["kind"] == "live" for row in found) else "")
        ),
        num_words=3,
    )


def _gap(row: JSON) -> Cell:
    """With its n, which is another one in each place."""
    m = metric(row, "gap")
    shown = points(m)
    if m is None:
        return shown
    below = f"{shown.below}, n = {m.n}" if shown.below else f"n = {m.n}"
    return Cell(main=shown.main, below=below, note=shown.note)


def _calibrators(found: Sequence[JSON], main: JSON | None) -> Table | None:
    row = next((r for r in found if main is not None and r["system"] == main.get("system")), None)
    if row is None or not row["rows"]:
        return None
    return table(
        (
            "calibrator",
            "log loss",
            f"minus {_calibrator(row['chosen_for_gate'])}",
            "Brier",
            "debiased ECE",
            "p, tasks dependent",
            "accepted, %",
            "wrong among accepted, %",
        ),
        [
            (
                words(_calibrator(str(r["name"]))),
                cell(metric(r, "log_loss")),
                cell(metric(r, "minus_own"), signed=True),
                cell(metric(r, "brier")),
                _band(part(r, "band")),
                words(p_value(r.get("p_value"))),
                percent(metric(r, "accept_rate")),
                percent(metric(r, "selective_risk")),
            )
            for r in row["rows"]
        ],
        caption=(
            f"What each calibrator does to {row['system']}'s scores on calibration proposals that "
            f"it was not fitted on, n = {row['n']}: each fifth of the tasks is tested with a "
            "calibrator fitted on half of the others and a threshold chosen on the other half, so "
            "that no row is in two of the three. The test split is not used. The gate's own is "
            f"{_calibrator(row['chosen_for_gate'])}, fitted on more tasks. Chosen by rule: what "
            "cross-validation within the fitted half takes, as for the gate. Log loss in nats."
        ),
    )


def _others_calibrators(found: Sequence[JSON]) -> Table | None:
    with_rows = [row for row in found if row["rows"]]
    if len(with_rows) < 2:
        return None
    names = [r["name"] for r in with_rows[0]["rows"]]
    return table(
        ("system", "n", *map(_calibrator, names)),
        [
            (
                words(row["system"]),
                words(row["n"]),
                *(cell(metric(r, "log_loss")) for r in row["rows"]),
            )
            for row in with_rows
        ],
        caption="The same held-out log loss, in nats, for every verifier with a gate.",
    )


def _notes(found: Sequence[JSON]) -> list[Paragraph]:
    return [
        Paragraph(text=f"Calibrators of {row['system']} are not compared: {row['note']}.")
        for row in found
        if row.get("note")
    ]


def _calibrator(name: str) -> str:
    return CALIBRATORS.get(name, name)
