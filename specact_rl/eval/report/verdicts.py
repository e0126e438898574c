"""What the numbers come to, in plain words: one sentence each, and the evidence beside it.

A claim is "shown" only when its whole 95 % interval is on one side (and, for a declared contrast,
when it survives Holm's correction). An interval that includes 0 is "not shown", never "equal".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

from specact_rl.eval.report import verifier_verdicts
from specact_rl.eval.report.blocks import Finding, Status
from specact_rl.eval.report.lookup import (
    accept_rate,
    contrast,
    overhead,
    part,
    proposer,
    rows,
    system,
    verifier,
)
from specact_rl.eval.report.numbers import (
    JSON,
    detectable,
    direction,
    fixed,
    independent_difference,
    metric,
    parameters,
    say,
    say_percent,
    say_points,
    say_rows,
)
from specact_rl.metrics.values import MetricValue

ALPHA = 0.05


def verdicts(results: JSON) -> list[str]:
    """Every verdict that the results allow, as one line of text each."""
    return [finding.text for finding in findings(results)]


def findings(results: JSON) -> list[Finding]:
    """The same with claim, evidence and status apart."""
    return [finding for judge in JUDGES for finding in judge(results)]


def strong_against_cheap(results: JSON) -> Iterator[Finding]:
    """Is the fallback worth anything?"""
    row = contrast(results, "A", "B")
    difference = metric(row, "difference")
    if row is None or difference is None:
        return
    a, b = (metric(system(results, name), "acceptable") for name in ("A", "B"))
    evidence = (
        f"A − B = {say_points(difference)}: {say_percent(a)} against {say_percent(b)}, "
        f"{say_rows(difference)}{_holm(row)}."
    )
    status = _status(difference, row)
    if status == "shown":
        claim = "The strong model is better than the cheap one."
    elif status == "against":
        claim = (
            "The strong model is worse than the cheap one, so every fallback loses accuracy on "
            "average and accepting everything is right."
        )
    else:
        claim = "It is not shown that the strong model is better than the cheap one."
        evidence += _unsettled(difference)
    yield Finding(status=status, claim=claim, evidence=evidence)


def accuracy_of_d(results: JSON) -> Iterator[Finding]:
    """Does D keep A's accuracy, within the margin?"""
    row = system(results, "D")
    difference = metric(row, "difference_from_a")
    if row is None or difference is None:
        return
    margin = float(part(row, "equivalence").get("margin") or 0.02)
    within = f"{fixed(100 * margin, 0)} points"
    evidence = f"D − A = {say_points(difference)}, {say_rows(difference)}."
    verdict = part(row, "equivalence").get("verdict")
    if accept_rate(row) == 0.0:
        status: Status = "note"
        claim = "D has A's accuracy because it accepts nothing: each of its answers is A's."
        evidence = ""
    elif row.get("not_worse_than_a"):
        status, claim = "shown", f"D keeps A's accuracy within {within}."
        evidence += " One-sided test at 5 %."
        if direction(difference) == "above":
            claim = "D is more accurate than A."
        elif verdict == "equivalent":
            evidence += " The two-sided equivalence test agrees."
    elif direction(difference, -margin) == "below":
        status, claim = "against", f"D does not keep A's accuracy: it loses more than {within}."
    elif direction(difference) == "below":
        status, claim = "against", f"D is less accurate than A; whether by {within} is not settled."
    else:
        status, claim = "open", f"It is not shown that D keeps A's accuracy within {within}."
        evidence += " The interval reaches below the margin."
    yield Finding(status=status, claim=claim, evidence=evidence)


def cost_of_d(results: JSON) -> Iterator[Finding]:
    """Is D cheaper than the strong model alone, and why not?"""
    row = system(results, "D")
    cost = metric(row, "relative_flops")
    if row is None or cost is None or cost.value is None:
        return
    side = direction(cost, 1.0)
    evidence = f"D takes {say(cost, most=2)} times A's FLOPs per step, measured."
    if side == "below":
        status: Status = "shown"
        claim = f"D is cheaper than A in FLOPs, by {fixed(100 * (1 - cost.value), 0)} %."
    elif side == "above":
        status, claim = "against", "D is not cheaper than A in FLOPs: it is dearer."
    else:
        status, claim = "open", "It is not shown that D is cheaper than A in FLOPs."
    yield Finding(
        status=status, claim=claim, evidence=evidence + _why_that_cost(results, row, cost)
    )


def _why_that_cost(results: JSON, row: JSON, cost: MetricValue) -> str:
    fixed_cost, rate = overhead(results), accept_rate(row)
    if fixed_cost is None or rate is None or cost.value is None:
        return ""
    why = (
        f" Proposing and verifying alone take {fixed(fixed_cost, 2)} of A's FLOPs"
        f"{_same_history(results)}"
    )
    if fixed_cost >= 1.0:
        why += ", so no accept rate can save anything."
    else:
        why += (
            f", so D breaks even at an accept rate of {fixed(100 * fixed_cost, 0)} % at best; "
            f"it accepts {say_percent(metric(row, 'accept_rate'))}."
        )
    if rate < 1.0:
        per_call = (cost.value - fixed_cost) / (1.0 - rate)
        if per_call > 1.05:
            why += (
                f" A fallback takes {fixed(per_call, 2)} times an average call of the strong model,"
                " which has to read what it skipped while proposals were accepted."
            )
    return why


def _same_history(results: JSON) -> str:
    judge = (verifier(results, "D") or {}).get("num_params")
    strong = part(results, "meta", "num_params").get("strong") or (
        proposer(results, "strong") or {}
    ).get("num_params")
    if not judge or not strong:
        return ""
    return (
        f" (the verifier of {parameters(judge)} parameters reads the same history as the strong "
        f"model of {parameters(strong)})"
    )


def gate_of_d(results: JSON) -> Iterator[Finding]:
    """Does D's gate know which proposals to accept?"""
    row = system(results, "D")
    skill = metric(row, "skill")
    rate = accept_rate(row)
    if row is None or skill is None or rate in (0.0, 1.0):
        return
    random, oracle = row.get("random_gate"), row.get("oracle_gate")
    evidence = f"Skill {say_points(skill)}, {say_rows(skill)}"
    if random is not None and oracle is not None:
        evidence += (
            f"; at D's accept rate a random gate is right in {fixed(100 * random, 1)} % and "
            f"the best possible one in {fixed(100 * oracle, 1)} %"
        )
    evidence += "."
    side = direction(skill)
    if side == "above":
        claim = "D's gate beats a random gate of its own accept rate."
    elif side == "below":
        claim = "D's gate is worse than a random gate of its own accept rate."
    else:
        claim = "It is not shown that D's gate beats a random gate of its own accept rate."
        evidence += _unsettled(skill)
    yield Finding(status=_of(side), claim=claim, evidence=evidence)


def several_proposals(results: JSON) -> Iterator[Finding]:
    """Do E's proposals beyond the first help?"""
    row = contrast(results, "E", "D")
    difference = metric(row, "difference")
    if row is None or difference is None:
        return
    status = _status(difference, row)
    claim = {
        "shown": "E's further proposals help.",
        "against": "E's further proposals hurt.",
    }.get(status, "It is not shown that E's further proposals help.")
    evidence = f"E − D = {say_points(difference)}, {say_rows(difference)}{_holm(row)}."
    if status == "open":
        evidence += _unsettled(difference)
    cheap = proposer(results, "cheap")
    if cheap and cheap.get("num_distinct") is not None:
        k = cheap["num_samples"]
        evidence += f" Of {k} samples {fixed(cheap['num_distinct'], 1)} are distinct on average"
        if cheap.get("effective_k") is not None:
            evidence += f", worth {fixed(cheap['effective_k'], 1)} independent draws"
        coverage = cheap.get("coverage") or []
        if len(coverage) > 1:
            evidence += (
                f"; one of them is acceptable in {fixed(100 * coverage[-1], 1)} % of steps, "
                f"the first alone in {fixed(100 * coverage[0], 1)} %"
            )
        evidence += "."
    yield Finding(status=status, claim=claim, evidence=evidence)


def preference_training(results: JSON) -> Iterator[Finding]:
    """Did DPO make the proposer better?"""
    row = contrast(results, "B-dpo", "B")
    difference = metric(row, "difference")
    if row is None or difference is None:
        return
    status = _status(difference, row)
    claim = {
        "shown": "DPO makes the proposer better.",
        "against": "DPO makes the proposer worse.",
    }.get(status, "It is not shown that DPO changes the proposer.")
    evidence = f"B-dpo − B = {say_points(difference)}, {say_rows(difference)}{_holm(row)}."
    if status == "open":
        evidence += _unsettled(difference)
    yield Finding(status=status, claim=claim, evidence=evidence)


def replay_against_live(results: JSON) -> Iterator[Finding]:
    """Do single steps and whole episodes put the systems in the same order?"""
    live = {str(r["name"]): metric(r, "success") for r in rows(results, "live")}
    step = {name: metric(system(results, name), "acceptable") for name in live}
    both = {
        name: (s, e)
        for name, e in live.items()
        if (s := step[name]) and s.value is not None and e and e.value is not None
    }
    if len(both) < 2:
        return
    swapped, clear = [], 0
    for (x, (step_x, live_x)), (y, (step_y, live_y)) in combinations(both.items(), 2):
        by_step = (step_x.value or 0.0) - (step_y.value or 0.0)
        by_episode = independent_difference(live_x, live_y)
        if by_step * (by_episode.value or 0.0) < 0.0:
            swapped.append(f"{x} and {y}")
            clear += direction(by_episode) != "open"
    num_pairs = len(both) * (len(both) - 1) // 2
    evidence = (
        f"By acceptable steps: {_order({name: pair[0] for name, pair in both.items()})}; "
        f"by completed tasks: {_order({name: pair[1] for name, pair in both.items()})}."
    )
    if not swapped:
        claim = "Replay and live episodes put the systems in the same order."
        yield Finding(status="note", claim=claim, evidence=evidence)
        return
    claim = f"Replay and live episodes disagree on {len(swapped)} of {num_pairs} pairs of systems."
    evidence += f" Swapped: {'; '.join(swapped)}. " + (
        f"For {clear} of them the difference between the live systems is beyond chance."
        if clear
        else "For none of them is the difference between the live systems beyond chance."
    )
    yield Finding(status="against" if clear else "open", claim=claim, evidence=evidence)


def _order(found: dict[str, MetricValue]) -> str:
    return ", ".join(sorted(found, key=lambda name: -(found[name].value or 0.0)))


def new_families(results: JSON) -> Iterator[Finding]:
    """How much is lost outside the task families that were trained on?"""
    for role, title in (("cheap", "cheap proposer"), ("strong", "strong model")):
        groups = part(proposer(results, role) or {}, "groups")
        inside = metric(groups.get("in_family"), "acceptable")
        outside = metric(groups.get("out_of_family"), "acceptable")
        if inside is None or outside is None:
            continue
        gain = independent_difference(outside, inside)
        if gain.value is None:
            continue
        side = direction(gain)
        claim = {
            "below": f"The {title} is worse on task families it never saw.",
            "above": f"The {title} is better on task families it never saw, which are easier.",
        }.get(side, f"No loss of the {title} on unseen task families is shown.")
        evidence = (
            f"{say_percent(outside)} acceptable there against {say_percent(inside)}: "
            f"{say_points(gain)}; {say_rows(outside)} against {say_rows(inside)}."
        )
        status: Status = {"below": "against", "above": "note", "open": "open"}[side]  # type: ignore[assignment]
        if side == "open":
            evidence += _unsettled(gain)
        yield Finding(status=status, claim=claim, evidence=evidence)


def degenerate_gates(results: JSON) -> Iterator[Finding]:
    """Gates that accept everything or nothing."""
    for row in rows(results, "replay", "systems"):
        if "threshold" not in row:
            continue
        name, rate = str(row["name"]), accept_rate(row)
        if rate == 0.0:
            claim = f"{name} accepts nothing: it is the strong model at a higher price."
        elif rate == 1.0 or row["threshold"] == 0.0:
            claim = f"{name} accepts every proposal that can be judged: its gate decides nothing."
        else:
            continue
        message = str((verifier(results, name) or {}).get("gate_message") or "")
        chosen = f" Threshold: {message}." if message else ""
        evidence = f"Accept rate {say_percent(metric(row, 'accept_rate'))}.{chosen}"
        yield Finding(status="note", claim=claim, evidence=evidence)


def _of(side: str) -> Status:
    return "shown" if side == "above" else "against" if side == "below" else "open"


def _status(difference: MetricValue, row: JSON) -> Status:
    adjusted = row.get("p_holm")
    if adjusted is not None and adjusted > ALPHA:
        return "open"
    return _of(direction(difference))


def _holm(row: JSON) -> str:
    adjusted = row.get("p_holm")
    if adjusted is None:
        return ""
    return f", Holm p {'< 0.001' if adjusted < 0.001 else '= ' + fixed(adjusted, 3)}"


def _unsettled(m: MetricValue) -> str:
    """Why an open comparison is open."""
    if direction(m) != "open":
        return " The interval leaves out 0, but not after the correction for all contrasts."
    size = detectable(m)
    if size is None:
        return f" There is no interval: {m.note}." if m.note else ""
    return f" A true difference below about {fixed(100 * size, 1)} points would mostly go unseen."


JUDGES: tuple[Callable[[JSON], Iterator[Finding]], ...] = (
    strong_against_cheap,
    accuracy_of_d,
    cost_of_d,
    gate_of_d,
    verifier_verdicts.gain_over_free,
    verifier_verdicts.calibration,
    several_proposals,
    preference_training,
    replay_against_live,
    new_families,
    degenerate_gates,
)
"""In the order of the report."""
