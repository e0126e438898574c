"""Verdicts on whole systems: accuracy and cost beside A, gates, several proposals, live order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from specact_rl.eval.report.blocks import Finding, Status
from specact_rl.eval.report.judging import (
    OF_SIDE,
    claim,
    holm,
    listed,
    status_of,
    unseen,
    unsettled,
)
from specact_rl.eval.report.lookup import (
    EXACT,
    MAIN_SYSTEMS,
    accept_rate,
    accepts_what_parses,
    all_parse,
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
    Direction,
    detectable,
    direction,
    fixed,
    independent_difference,
    metric,
    parameters,
    say,
    say_p,
    say_percent,
    say_points,
    say_rows,
)
from specact_rl.metrics.values import MetricValue

STRONG_IS_BETTER = (
    (
        "acceptable",
        "the strong model is better than the cheap one",
        "The strong model is worse than the cheap one, so every fallback loses accuracy on "
        "average and accepting everything is right.",
    ),
    (
        "arguments",
        "the strong model gives the expert's arguments more often than the cheap one",
        "The strong model gives the expert's arguments less often than the cheap one.",
    ),
)
"""Level, claim, and what stands when the data speak against it."""
LESS_IS_BETTER: dict[Direction, Status] = {**OF_SIDE, "below": "shown", "above": "against"}


def strong_against_cheap(results: JSON) -> Iterator[Finding]:
    """Is the fallback worth anything?"""
    for level, that, otherwise in STRONG_IS_BETTER:
        row = contrast(results, "A", "B", level)
        difference = metric(row, "difference")
        if row is None or difference is None:
            continue
        a, b = (metric(system(results, name), level) for name in ("A", "B"))
        status = status_of(difference, row)
        yield Finding(
            status=status,
            claim=claim(status, that, otherwise),
            evidence=(
                f"A − B = {say_points(difference)}: {say_percent(a)} against {say_percent(b)}, "
                f"{say_rows(difference)}{holm(row)}.{unsettled(status, difference)}"
            ),
        )


def accuracy_of_d(results: JSON) -> Iterator[Finding]:
    """Does D keep A's accuracy, within the margin?"""
    row = system(results, "D")
    difference = metric(row, "difference_from_a")
    if row is None or difference is None:
        return
    test = part(row, "equivalence")
    margin = float(test.get("margin") or 0.02)
    within = f"{fixed(100 * margin, 0)} points"
    that = f"D keeps A's accuracy within {within}"
    if accept_rate(row) == 0.0:
        text = "D has A's accuracy because it accepts nothing: each of its answers is A's."
        yield Finding(status="note", claim=text, evidence="")
        return
    evidence = f"D − A = {say_points(difference)}, {say_rows(difference)}.{_tost(test, within)}"
    status: Status
    if row.get("not_worse_than_a") is None or direction(difference) == "unknown":
        status, text = "unknown", claim("unknown", that, "")
        evidence += unsettled(status, difference)
    elif row["not_worse_than_a"]:
        status, text = "shown", claim("shown", that, "")
        if direction(difference) == "above":
            text = "D is more accurate than A."
    elif direction(difference, -margin) == "below":
        status, text = "against", f"D does not keep A's accuracy: it loses more than {within}."
    elif direction(difference) == "below":
        status, text = "against", f"D is less accurate than A; whether by {within} is not settled."
    else:
        status, text = "open", claim("open", that, "")
        evidence += f" The interval reaches below the margin.{unseen(difference)}"
    yield Finding(status=status, claim=text, evidence=evidence)


def _tost(test: JSON, within: str) -> str:
    if test.get("verdict") is None:
        return ""
    found = {
        "equivalent": "equivalent",
        "different": "equivalence is not shown, and the difference is not 0",
        "inconclusive": "equivalence is not shown",
    }[test["verdict"]]
    told = f" TOST with a margin of {within}: {found}{say_p(test.get('p_value'))}"
    if test.get("p_not_worse") is not None:
        told += f"; its one side, not worse by {within}{say_p(test['p_not_worse'])}"
    return told + "."


def cost_of_d(results: JSON) -> Iterator[Finding]:
    """Is D cheaper than the strong model alone, and why not?"""
    row = system(results, "D")
    cost = metric(row, "relative_flops")
    if row is None or cost is None or cost.value is None:
        return
    evidence = f"D takes {say(cost, most=2)} times A's FLOPs per step, measured."
    status = LESS_IS_BETTER[direction(cost, 1.0)]
    text = claim(
        status, "D is cheaper than A in FLOPs", "D is not cheaper than A in FLOPs: it is dearer."
    )
    if status == "shown":
        text = f"D is cheaper than A in FLOPs, by {fixed(100 * (1 - cost.value), 0)} %."
    if status == "open":
        evidence += unseen(cost, "% of A's FLOPs")
    yield Finding(status=status, claim=text, evidence=evidence + _why_that_cost(results, row, cost))


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
    """Does D's gate know which proposals to accept, and is it the verifier who knows?"""
    row = system(results, "D")
    skill, rate = metric(row, "skill"), accept_rate(row)
    if row is None or skill is None or rate in (0.0, 1.0):
        return
    random, oracle = row.get("random_gate"), row.get("oracle_gate")
    evidence = f"Skill {say_points(skill)}, {say_rows(skill)}"
    if random is not None and oracle is not None:
        evidence += (
            f"; at D's accept rate a random gate is right in {fixed(100 * random, 1)} % and "
            f"the best possible one in {fixed(100 * oracle, 1)} %"
        )
    status = status_of(skill)
    parsing = not all_parse(results)
    gate = "D's gate, parser and verifier together," if parsing else "D's gate"
    yield Finding(
        status=status,
        claim=claim(
            status,
            f"{gate} beats a random gate of its own accept rate",
            f"{gate} is worse than a random gate of its own accept rate.",
        ),
        evidence=f"{evidence}.{unsettled(status, skill)}",
    )
    if parsing:
        yield from _verifier_of_d(results, row, skill)


def _verifier_of_d(results: JSON, row: JSON, skill: MetricValue) -> Iterator[Finding]:
    own = metric(row, "skill_among_parsed")
    if own is None or own.value is None:
        return
    rate, parsed = accept_rate(row), row.get("parse_rate")
    evidence = _parsers_part(results, row, skill, own)
    if rate is not None and parsed is not None and abs(rate - parsed) < EXACT:
        text = "D's verifier adds nothing to the parser: D accepts every proposal that parses."
        yield Finding(status="against", claim=text, evidence=evidence)
        return
    status = status_of(own)
    yield Finding(
        status=status,
        claim=claim(
            status,
            "D's verifier adds to the parser: it beats a random gate among the proposals that "
            "parse",
            "D's verifier takes from what the parser gives: a random gate among the proposals "
            "that parse does better.",
        ),
        evidence=evidence + unsettled(status, own),
    )


def _parsers_part(results: JSON, row: JSON, skill: MetricValue, own: MetricValue) -> str:
    told = f"Skill among what parses {say_points(own)}"
    if skill.value is not None and own.value is not None:
        rest = fixed(100 * (skill.value - own.value), 1, signed=True)
        told += f"; the other {rest} points of D's skill are the parser's"
    told += "."
    parses = accepts_what_parses(results, row)
    difference = metric(row, "over_accept_what_parses")
    if parses is not None and difference is not None:
        told += (
            f" Accepting whatever parses is right in {say_percent(metric(parses, 'acceptable'))}, "
            f"D in {say_percent(metric(row, 'acceptable'))}: {say_points(difference)}."
        )
    return told


def several_proposals(results: JSON) -> Iterator[Finding]:
    """Do E's proposals beyond the first help?"""
    row = contrast(results, "E", "D")
    difference = metric(row, "difference")
    if row is None or difference is None:
        return
    status = status_of(difference, row)
    evidence = (
        f"E − D = {say_points(difference)}, {say_rows(difference)}{holm(row)}."
        f"{unsettled(status, difference)}"
    )
    cheap = proposer(results, "cheap")
    if cheap and cheap.get("num_distinct") is not None:
        evidence += _samples(cheap)
    evidence += _choosing(results)
    yield Finding(
        status=status,
        claim=claim(status, "E's further proposals help", "E's further proposals hurt."),
        evidence=evidence,
    )


def _samples(cheap: JSON) -> str:
    told = (
        f" Of {cheap['num_samples']} samples {fixed(cheap['num_distinct'], 1)} are distinct on "
        "average"
    )
    if cheap.get("effective_k") is not None:
        told += f", worth {fixed(cheap['effective_k'], 1)} independent draws"
    coverage = cheap.get("coverage") or []
    if len(coverage) > 1:
        told += (
            f"; one of them is acceptable in {fixed(100 * coverage[-1], 1)} % of steps, "
            f"the first alone in {fixed(100 * coverage[0], 1)} %"
        )
    return told + "."


def _choosing(results: JSON) -> str:
    """Can a verifier tell the proposals of one step apart, and does one that can help?"""
    own, other = verifier(results, "D"), verifier(results, "D-lin+")
    same_step = metric(own, "auroc_same_step")
    if same_step is None or same_step.value is None:
        return ""
    told = (
        " Of an acceptable and an unacceptable proposal of one step, E's verifier puts the "
        f"acceptable one first in {say_percent(same_step)} (chance 50 %)"
    )
    linear, gain = metric(other, "auroc_same_step"), contrast(results, "E-lin+", "D-lin+")
    if linear is not None and linear.value is not None:
        told += f", linear features and confidence in {say_percent(linear)}"
        difference = metric(gain, "difference")
        if gain is not None and difference is not None:
            told += f"; with those as verifier, E − D = {say_points(difference)}{holm(gain)}"
    return told + "."


def replay_against_live(results: JSON) -> Iterator[Finding]:
    """Do single steps and whole episodes put the systems in the same order?"""
    live = {
        str(r["name"]): metric(r, "success")
        for r in rows(results, "live")
        if r["name"] in MAIN_SYSTEMS
    }
    step = {name: metric(system(results, name), "acceptable") for name in live}
    both = {
        name: (s, e)
        for name, e in live.items()
        if (s := step[name]) and s.value is not None and e and e.value is not None
    }
    if len(both) < 2:
        return
    swapped, clear, sizes = [], 0, []
    for (x, (step_x, live_x)), (y, (step_y, live_y)) in combinations(both.items(), 2):
        by_step = (step_x.value or 0.0) - (step_y.value or 0.0)
        by_episode = independent_difference(live_x, live_y)
        if by_step * (by_episode.value or 0.0) < 0.0:
            swapped.append(f"{x} and {y}")
            clear += direction(by_episode) in ("above", "below")
            sizes.append(detectable(by_episode) or 0.0)
    num_pairs = len(both) * (len(both) - 1) // 2
    evidence = (
        f"By acceptable steps: {_order({name: pair[0] for name, pair in both.items()})}; "
        f"by completed tasks: {_order({name: pair[1] for name, pair in both.items()})}."
    )
    if not swapped:
        text = "Replay and live episodes put the main systems in the same order."
        yield Finding(status="note", claim=text, evidence=evidence)
        return
    text = f"Replay and live episodes disagree on {len(swapped)} of {num_pairs} pairs of systems."
    evidence += f" Swapped: {'; '.join(swapped)}. " + (
        f"For {clear} of them the difference between the live systems is beyond chance."
        if clear
        else "For none of them is the difference between the live systems beyond chance"
        + (
            f"; a true one below about {fixed(100 * max(sizes), 0)} points would mostly go unseen."
            if max(sizes)
            else "."
        )
    )
    yield Finding(status="against" if clear else "open", claim=text, evidence=evidence)


def _order(found: dict[str, MetricValue]) -> str:
    return ", ".join(sorted(found, key=lambda name: -(found[name].value or 0.0)))


def degenerate_gates(results: JSON) -> Iterator[Finding]:
    """Gates that accept everything or nothing, those of a kind in one sentence."""
    nothing, everything = [], []
    for row in rows(results, "replay", "systems"):
        if "threshold" not in row:
            continue
        rate = accept_rate(row)
        if rate == 0.0:
            nothing.append(row)
        elif rate == 1.0 or row["threshold"] == 0.0:
            everything.append(row)
    for found, one, several in (
        (
            nothing,
            "accepts nothing: it is the strong model at a higher price",
            "accept nothing: they are the strong model at a higher price",
        ),
        (
            everything,
            "accepts every proposal that can be judged: its gate decides nothing",
            "accept every proposal that can be judged: their gates decide nothing",
        ),
    ):
        if found:
            names = listed([str(row["name"]) for row in found])
            yield Finding(
                status="note",
                claim=f"{names} {one if len(found) == 1 else several}.",
                evidence=_thresholds(results, found),
            )


def _thresholds(results: JSON, found: list[JSON]) -> str:
    rates = {str(row["name"]): say_percent(metric(row, "accept_rate")) for row in found}
    if len(set(rates.values())) == 1:
        told = f"Accept rate {next(iter(rates.values()))}."
    else:
        told = f"Accept rates: {', '.join(f'{name} {rate}' for name, rate in rates.items())}."
    messages = [
        str(message)
        for row in found
        if (message := (verifier(results, str(row["name"])) or {}).get("gate_message"))
    ]
    reasons = list(dict.fromkeys(messages))
    return told + (f" Threshold: {'; '.join(reasons)}." if reasons else "")
