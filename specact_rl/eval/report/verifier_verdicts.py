"""Verdicts on D's trained verifier: what it adds to the free ones, and whether it is calibrated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from specact_rl.eval.report.blocks import Finding, Status
from specact_rl.eval.report.judging import (
    ALPHA,
    beats_all,
    claim,
    listed,
    status_of,
    unsettled,
)
from specact_rl.eval.report.lookup import (
    action_type_title,
    part,
    rows,
    verifier,
    verifier_title,
)
from specact_rl.eval.report.numbers import (
    JSON,
    detectable,
    direction,
    fixed,
    metric,
    say,
    say_p,
    say_percent,
    say_points,
    say_rows,
)

AUROC_TARGET = 0.80
FREE = (
    "proposer_logprob",
    "sample_agreement",
    "linear",
    "linear_with_confidence",
    "trees",
)
"""Verifiers that cost nothing to run."""
BESIDE = ("proposer_logprob", "linear")
"""What others are held against: the first of these that there is."""
CERTIFIED_RISK = 0.05
MOST_TASKS = 1_000_000
ECE_TARGET = 0.03
"""What a trained verifier is asked to reach on its proposer's test proposals."""


def gain_over_free(results: JSON) -> Iterator[Finding]:
    """Did training a verifier pay, beside what costs nothing?"""
    row = verifier(results, "D")
    gains = {
        verifier_title(name): gain
        for name in part(row or {}, "gain_over")
        if (gain := metric(part(row or {}, "gain_over"), name)) is not None
    }
    if row is None or not gains:
        return
    status, names = beats_all(gains)
    costs = "costs" if len(names) == 1 else "cost"
    free = set(part(row, "gain_over")) <= {*FREE, "model_agreement"}
    text = claim(
        status,
        f"the trained verifier beats {listed(names)}",
        f"The trained verifier is worse than {listed(names)}"
        + (f", which {costs} nothing." if free else "."),
    )
    if status == "shown" and free:
        text = f"The trained verifier beats every free one ({listed(names)})."
    told = [f"{name} {say(gain, signed=True)}" for name, gain in gains.items()]
    sizes = " or ".join(str(n) for n in sorted({gain.n for gain in gains.values()}))
    evidence = f"Gain in AUROC, n = {sizes} proposals: over {'; over '.join(told)}."
    limits = [
        f"{fixed(size, 3)} over {name}"
        for name in gains
        if direction(gains[name]) == "open" and (size := detectable(gains[name])) is not None
    ]
    if limits:
        evidence += f" Smaller true gains than about {listed(limits)} would mostly go unseen."
    yield Finding(status=status, claim=text, evidence=evidence)


def worth_of_verifiers(results: JSON) -> Iterator[Finding]:
    """What each verifier that costs something adds over one that costs nothing, in plain words.

    Of several systems with one verifier the first speaks for it.
    """
    told: set[str] = set()
    for row in rows(results, "replay", "value", "systems"):
        key = f"{row.get('verifier')} of {row.get('proposer')}"
        if row.get("verifier") in FREE or key in told:
            continue
        told.add(key)
        over = part(row, "at_equal_rate")
        name = next((free for free in BESIDE if free in over), None)
        if name is not None:
            yield _worth(results, row, name)


def difference_target(results: JSON) -> Iterator[Finding]:
    """Is a verifier of the gain over the fallback worth more than one of being right?"""
    for row in rows(results, "replay", "value", "difference_target"):
        net, better, worse = metric(row, "net_difference"), str(row["better"]), str(row["worse"])
        status = status_of(net)
        mine, other = (fixed(100 * rate, 1) for rate in row["accept_rates"])
        yield Finding(
            status=status,
            claim=claim(
                status,
                f"a verifier trained on the gain over the strong model ({better}) is worth more "
                f"than one trained on being right ({worse})",
                f"A verifier trained on the gain over the strong model ({better}) is worth less "
                f"than one trained on being right ({worse}).",
            ),
            evidence=(
                f"Accuracy net of strong calls at {fixed(100 * row['call_worth'], 1)} points each: "
                f"{say_points(net)}; accuracy alone {say_points(metric(row, 'difference'))}; "
                f"accepted {mine} % against {other} %; {say_rows(net)}."
                f"{unsettled(status, net) if net else ''}"
            ),
        )


def _worth(results: JSON, row: JSON, name: str) -> Finding:
    against = part(row, "at_equal_rate", name)
    gain, system = metric(against, "gain"), str(row["name"])
    status = status_of(gain)
    mine, other = f"The {verifier_title(str(row['verifier']))} ({system})", verifier_title(name)
    if name == "proposer_logprob":
        other = "the proposer's own confidence"
    judged = verifier(results, system)
    auroc = metric(part(judged or {}, "gain_over"), name)
    claims = {
        "shown": f"{mine} adds {say_points(gain)} over {other}.",
        "against": f"{mine} takes away from {other}: {say_points(gain)}.",
        "open": f"It is not shown that the {mine[4:]} adds anything over {other}.",
    }
    evidence = f"At an equal accept rate {say_points(gain)}, {say_rows(gain)}"
    if auroc is not None and auroc.value is not None:
        evidence += f"; in AUROC {say(auroc, signed=True)}"
    evidence += f".{_certified(results, system)}{_more_tasks(against)}"
    unknown = f"Whether the {mine[4:]} adds anything over {other} cannot be said."
    return Finding(status=status, claim=claims.get(status, unknown), evidence=evidence)


def _certified(results: JSON, system: str) -> str:
    """Whether some threshold certifies the risk that is asked for; empty where it was not tried."""
    for row in rows(results, "replay", "certificates"):
        if row.get("system") != system:
            continue
        for target in rows(row, "targets"):
            if abs(float(target.get("target") or 0.0) - CERTIFIED_RISK) > 1e-9:
                continue
            risk = f"{fixed(100 * CERTIFIED_RISK, 0)} % wrong among the accepted"
            held = [c for c in rows(target, "certificates") if c.get("threshold") is not None]
            exact = [c for c in held if c.get("method") == "exact"]
            if not exact:
                if any(c.get("method") == "task" for c in held):
                    return (
                        f" A threshold certifies {risk} as a mean over tasks, none for one step "
                        "drawn from each."
                    )
                return f" No threshold certifies {risk}."
            accepted = say_percent(metric(exact[0], "accept_rate"))
            return f" A threshold certifies {risk} and accepts {accepted}."
    return ""


def _more_tasks(against: JSON) -> str:
    count, gain = against.get("more_tasks"), metric(against, "gain")
    if not count or gain is None:
        return ""
    if count > MOST_TASKS:
        return f" More than {MOST_TASKS:,} further tasks would be needed to settle it."
    seen = say(replace(gain, low=None, high=None), "points", scale=100.0, most=1, signed=True)
    return (
        f" If the {seen} seen are the true ones, about {count:,} more tasks would settle it in "
        "four of five draws."
    )


def ranking(results: JSON) -> Iterator[Finding]:
    """Does D's verifier rank well enough, and also where knowing the action type does not help?"""
    row = verifier(results, "D")
    auroc = metric(row, "auroc")
    if row is None or auroc is None or auroc.value is None:
        return
    target = fixed(AUROC_TARGET, 2)
    status = status_of(auroc, zero=AUROC_TARGET)
    yield Finding(
        status=status,
        claim=claim(
            status,
            f"the AUROC of D's verifier is above {target}",
            f"The AUROC of D's verifier is below the {target} that it was meant to reach.",
        ),
        evidence=f"AUROC {say(auroc)}, n = {row['n']} proposals.",
    )
    same = metric(row, "auroc_same_type")
    if same is None or same.value is None:
        return
    status = status_of(same, zero=0.5)
    kinds = {
        action_type_title(kind): found
        for kind in part(row, "auroc_within_types")
        if (found := metric(part(row, "auroc_within_types"), kind)) and found.value is not None
    }
    evidence = f"AUROC over pairs of one action type {say(same)}."
    unclear = [kind for kind, found in kinds.items() if direction(found, 0.5) != "above"]
    if kinds:
        evidence += f" Type by type above chance in {len(kinds) - len(unclear)} of {len(kinds)}"
        evidence += f"; not shown for {listed(unclear)}." if unclear else "."
    yield Finding(
        status=status,
        claim=claim(
            status,
            "D's verifier tells good from bad among proposals of one action type",
            "Among proposals of one action type D's verifier ranks worse than chance.",
        ),
        evidence=evidence,
    )


def calibration(results: JSON) -> Iterator[Finding]:
    """Are D's probabilities right, and do they say anything?"""
    row = verifier(results, "D")
    error, skill = metric(row, "debiased_ece"), metric(row, "brier_skill")
    if row is None or error is None or error.value is None:
        return
    band = part(row, "null_band")
    target, meets = fixed(ECE_TARGET, 2), error.value <= ECE_TARGET
    status: Status = "unknown"
    text = "Whether D's probabilities are calibrated cannot be said."
    chance = ""
    if band.get("high") is not None:
        chance = (
            f"; perfectly calibrated probabilities give {fixed(band['low'], 3)} to "
            f"{fixed(band['high'], 3)}{say_p(band['p_value'])}"
        )
        informs = skill is not None and (direction(skill) == "above")
        if error.value > band["high"]:
            status, text = "against", "D's probabilities are miscalibrated on the test split."
        elif band["p_value"] <= ALPHA:
            status, text = "open", "D's probabilities are at the edge of what chance explains."
        elif meets and informs:
            status = "note"
            text = (
                f"D's probabilities reach the target: debiased ECE {target}, Brier skill above 0."
            )
        else:
            status, text = "open", "It is not shown that D's probabilities are miscalibrated."
    evidence = (
        f"Debiased ECE {fixed(error.value, 3)}, {'within' if meets else 'above'} the target of "
        f"{target}, n = {row['n']}{chance}.{_skill(row)}{_where_accepted(row)}"
    )
    yield Finding(status=status, claim=text, evidence=evidence)


def _skill(row: JSON) -> str:
    skill = metric(row, "brier_skill")
    if skill is None or skill.value is None:
        return ""
    told = f" Brier skill {say(skill, most=2)}"
    if skill.value <= 0.0:
        return f"{told}: the probabilities say no more than the base rate does."
    return f"{told} over always saying the base rate."


def _where_accepted(row: JSON) -> str:
    accepted = part(row, "accepted")
    if not accepted:
        return ""
    return (
        f" Among the {accepted['n']} accepted the mean probability is "
        f"{fixed(100 * accepted['mean_p_accept'], 1)} % and "
        f"{say_percent(metric(accepted, 'acceptable'))} are acceptable."
    )
