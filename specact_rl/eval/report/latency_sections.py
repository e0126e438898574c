"""Section on cost and latency: who is paid, at which prices the order turns, other schedules."""

from __future__ import annotations

from collections.abc import Iterator

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
from specact_rl.eval.report.judging import OF_SIDE, listed
from specact_rl.eval.report.lookup import MAIN_SYSTEMS, part, rows
from specact_rl.eval.report.numbers import (
    DASH,
    JSON,
    Direction,
    cell,
    direction,
    fixed,
    metric,
    percent,
    points,
    say,
    say_points,
    say_rows,
)
from specact_rl.eval.report.sensitivity_figure import (
    ROLE_TITLES,
    UNIT_TITLES,
    priced_in,
    sensitivity_picture,
)
from specact_rl.metrics.values import MetricValue

SHOWN = (
    *MAIN_SYSTEMS,
    "D-logp",
    "D-lin+",
    "E-lin+",
    "D-trees",
    "D-half",
    "D-new-half",
    "D-diff-half",
)
LESS_IS_BETTER: dict[Direction, Status] = {**OF_SIDE, "below": "shown", "above": "against"}
MODE_TITLES = {
    "sequential": "one after the other",
    "parallel": "strong call beside the proposal",
}
OF_AHEAD = (
    "Ahead: the strong model decides every step, so that accuracy is A's; of a gated system only "
    "accepted guesses are acted on. Thrown away: actions executed on a wrong guess. "
)
NO_TIME = 0.005
"""Differences in A's seconds that a table of two decimals does not show."""
UNITS = ("assumed", "flops", "seconds", "price")


def cost_and_latency_section(results: JSON) -> Section | None:
    """What systems cost by who is paid, break points of prices, schedules."""
    found = tuple(_findings(results))
    blocks: list[Block | None] = [
        Findings(items=found) if found else None,
        costs_table(results),
        sensitivity_picture(results),
        break_points_table(results),
        tornado_table(results),
        _about_seconds(results),
        schedules_table(results),
        breadth_table(results),
    ]
    present = [block for block in blocks if block is not None]
    return Section(title="Cost and latency", blocks=present) if present else None


def costs_table(results: JSON) -> Table | None:
    """Each system's cost in each unit, and the part of it that was for nothing."""
    found = [row for row in rows(results, "replay", "costs") if row["name"] in SHOWN]
    if not found:
        return None
    titles = {"assumed": "assumed", "flops": "FLOPs", "seconds": "seconds", "price": "dollars"}
    return table(
        (
            "system",
            *(f"{titles[unit]}, × A" for unit in UNITS),
            *(f"rejected, % of {titles[unit]}" for unit in UNITS),
        ),
        [
            (
                words(row["name"]),
                *(cell(metric(row.get(unit), "relative"), most=2) for unit in UNITS),
                *(percent(metric(row.get(unit), "wasted")) for unit in UNITS),
            )
            for row in found
        ],
        caption=(
            f"Cost per step relative to A, n = {found[0]['n']} steps; 95 % intervals over "
            "resampled tasks. Rejected: the part that went into proposing and verifying at steps "
            "whose proposal was not executed. Assumed: the source report's price list with the "
            "fallback paid."
            + (
                f" Seconds are {_whose_seconds(results)}."
                if any(metric(row.get("seconds"), "relative") for row in found)
                else ""
            )
        ),
    )


def break_points_table(results: JSON) -> Table | None:
    """At which prices each system is cheaper than A, by role and unit."""
    units = rows(results, "replay", "sensitivity")
    lines = [
        (
            words(name),
            words(UNIT_TITLES[unit["unit"]]),
            *(_where_cheaper(unit, axis["role"], name) for axis in unit["axes"]),
        )
        for unit in units
        for name in (str(system["name"]) for system in unit["systems"])
        if name in SHOWN and name != "A"
    ]
    if not lines:
        return None
    return table(
        ("system", "in", "a proposal", "a score", "a strong call"),
        lines,
        caption=(
            "Where a system is cheaper than A: prices of one role relative to those of this run "
            "(1.00), the other two unchanged; 95 % intervals over resampled tasks. Solved for "
            "exactly: accuracies and numbers of calls do not depend on prices. Always and never "
            "are of these steps and have no interval."
        ),
        num_words=2,
    )


def _where_cheaper(unit: JSON, role: str, name: str) -> Cell:
    found = _against_a(unit, role, name)
    if found is None:
        return words(None)
    at = metric(found, "at")
    if at is None:
        return words(str(found["cheaper"]))
    shown = cell(at, most=2)
    word = "below" if found["cheaper"] == "below" else "from"
    return Cell(main=f"{word} {shown.main}", below=shown.below, note=shown.note)


def _against_a(unit: JSON, role: str, name: str) -> JSON | None:
    return next(
        (
            row
            for axis in unit["axes"]
            if axis["role"] == role
            for row in axis["against_a"]
            if row["system"] == name
        ),
        None,
    )


def tornado_table(results: JSON) -> Table | None:
    """Each system's cost when one price is halved, and when it is doubled."""
    lines = []
    for unit in rows(results, "replay", "sensitivity"):
        for system in unit["systems"]:
            if system["name"] in SHOWN and system["name"] != "A":
                now = sum(float(system[role]) for role in ROLE_TITLES)
                ends = [system["tornado"][role] for role in ROLE_TITLES]
                lines.append(
                    (
                        words(system["name"]),
                        words(UNIT_TITLES[unit["unit"]]),
                        words(fixed(now, 2)),
                        *(words(f"{fixed(low, 2)} … {fixed(high, 2)}") for low, high in ends),
                    )
                )
    if not lines:
        return None
    return table(
        ("system", "in", "now, × A", "a proposal", "a score", "a strong call"),
        lines,
        caption=(
            "Cost relative to A when the price of one role is half, and twice, what it is; A pays "
            "for its strong calls at the same price."
        ),
        num_words=2,
    )


def _findings(results: JSON) -> Iterator[Finding]:
    for unit in rows(results, "replay", "sensitivity"):
        yield from _cheaper_than_a(results, unit)
        yield from _best(unit)
    yield from _speculation(results)
    yield from _beside(results)


def _cheaper_than_a(results: JSON, unit: JSON) -> Iterator[Finding]:
    """D against A, and what each price would have to be."""
    costs = next((r for r in rows(results, "replay", "costs") if r["name"] == "D"), None)
    relative = metric((costs or {}).get(unit["unit"]), "relative")
    if relative is None or relative.value is None:
        return
    measured = priced_in(unit["unit"])
    side = direction(relative, 1.0)
    claims = {
        "below": f"D is cheaper than A {measured}.",
        "above": f"D is dearer than A {measured}.",
        "open": f"It is not shown that D is cheaper than A {measured}.",
        "unknown": f"Whether D is cheaper than A {measured} cannot be said.",
    }
    turns = [t for role in ROLE_TITLES if (t := _turn(unit, role))]
    evidence = f"It costs {say(relative, most=2)} times as much, {say_rows(relative)}."
    if turns:
        evidence += f" With the other prices as they are it is the cheaper one {listed(turns)}."
    yield Finding(status=LESS_IS_BETTER[side], claim=claims[side], evidence=evidence)


def _turn(unit: JSON, role: str) -> str | None:
    """Where D is cheaper than A along one price, as the end of a sentence."""
    found, what, base = _against_a(unit, role, "D"), ROLE_TITLES[role], unit["base"][role]
    if found is None or (base is None and found["at"] is not None):
        return None
    at = metric(found, "at")
    if at is None or at.value is None:
        return f"at {'any' if found['cheaper'] == 'always' else 'no'} price of a {what}"
    if role == "strong":
        return f"from {say(at, most=2)} times the present price of a strong call on"
    return f"below a price of {_times(base, at)} strong calls for a {what} (now {fixed(base, 2)})"


def _times(base: float, factor: MetricValue) -> str:
    ends = (factor.value, factor.low, factor.high)
    value, low, high = (None if end is None else base * end for end in ends)
    return say(MetricValue(value=value, low=low, high=high, n=factor.n), most=2)


def _best(unit: JSON) -> Iterator[Finding]:
    """Which system has the highest utility at present prices, and until where."""
    axis = next((axis for axis in unit["axes"] if axis["role"] == "proposer"), None)
    here = None if axis is None else _at_one(axis["best"])
    if axis is None or here is None:
        return
    name = str(here["system"])
    share = _share(axis, "best_share", name)
    others = [system for system in _at_one(axis["pareto"], "systems") or [] if system != name]
    ends = [
        f"{'from' if end == 'from' else 'up to'} {fixed(here[end], 2)} times"
        for end in ("from", "to")
        if here[end]
    ]
    weight = fixed(100.0 * float(unit["cost_weight"]), 0)
    yield Finding(
        status="note",
        claim=f"Reckoned {priced_in(unit['unit'])}, {name} is the best system.",
        evidence=(
            f"Best: the highest accuracy less {weight} points for what one of A's steps costs. "
            + (
                f"It is that in {share} of {unit['num_resamples']} resamples of tasks"
                if share
                else ""
            )
            + (
                f", and {listed(ends)} the present price of a proposal"
                if ends
                else ", and at every price of a proposal"
            )
            + f". Also on the Pareto set: {', '.join(others) if others else 'none'}."
        ),
    )


def _at_one(stretches: list[JSON], key: str | None = None) -> JSON | None:
    """The stretch that holds the present price, or one thing of it."""
    found = next((s for s in stretches if s["to"] is None or s["to"] > 1.0), None)
    return found if found is None or key is None else found[key]


def _share(axis: JSON, key: str, name: str) -> str | None:
    shares = axis[key].get(name)
    if not shares or 1.0 not in axis["factors"]:
        return None
    return f"{fixed(100.0 * float(shares[axis['factors'].index(1.0)]), 0)} %"


def _schedule(results: JSON, system: str, mode: str) -> JSON | None:
    found = rows(results, "replay", "latency", "rows")
    return next((r for r in found if r["system"] == system and r["mode"] == mode), None)


def _speculation(results: JSON) -> Iterator[Finding]:
    """Acting on guesses one step ahead, and what other reckonings promise of it."""
    row = _schedule(results, "B", "speculative")
    saved = metric(row, "relative_seconds")
    if row is None or saved is None or saved.value is None:
        return
    depth = "one step" if row["depth"] == 1 else f"up to {row['depth']} steps"
    side = direction(saved, 1.0)
    that = f"acting on the cheap model's guesses, {depth} ahead, saves time"
    claims = {
        "below": f"{that[0].upper()}{that[1:]}.",
        "above": f"A{that[1:].replace('saves', 'costs')}.",
        "open": f"It is not shown that {that}.",
        "unknown": f"Whether {that} cannot be said.",
    }
    gap, promised = metric(row, "over_promise"), row.get("formula_saving")
    evidence = (
        f"It takes {say(saved, most=2)} times A's seconds and "
        f"{say(metric(row, 'relative_cost'), most=2)} times its cost, with A's own actions. "
        f"{_percent(row['hit_rate'])} of the steps have a right guess whose effect may be caused "
        f"early ({listed(row['effects'])})."
    )
    if gap is not None and gap.value is not None:
        evidence += (
            " Reckoned with hits independent of how long a step takes it would be "
            f"{fixed(row['independent'], 2)}: {say_points(gap)} of A's time apart."
        )
    if promised is not None:
        evidence += (
            f" The published formula promises {_percent(promised)} less time, and with commitment "
            f"{_percent(row['formula_saving_committed'])}; here it is {_percent(1 - saved.value)}."
        )
    yield Finding(status=LESS_IS_BETTER[side], claim=claims[side], evidence=evidence)


def _beside(results: JSON) -> Iterator[Finding]:
    one, two = (_schedule(results, "D", mode) for mode in ("sequential", "parallel"))
    first, second = metric(one, "relative_seconds"), metric(two, "relative_seconds")
    if first is None or second is None or first.value is None or second.value is None:
        return
    yield Finding(
        status="note",
        claim=(
            "Starting the strong call beside D's proposal "
            + (
                "buys time with calls."
                if first.value - second.value > NO_TIME
                else "saves no time."
            )
        ),
        evidence=(
            f"D takes {say(first, most=2)} times A's seconds one after the other and "
            f"{say(second, most=2)} side by side; its cost goes from "
            f"{say(metric(one, 'relative_cost'), most=2)} to "
            f"{say(metric(two, 'relative_cost'), most=2)} times A's, calls that acceptance cancels "
            "counted by the part that had run."
        ),
    )


def _percent(share: float) -> str:
    return f"{fixed(100.0 * share, 1)} %"


def _whose_seconds(results: JSON) -> str:
    if part(results, "meta", "study"):
        return "as the log has them"
    if part(results, "meta", "table"):
        return "as the table has them"
    return "as shares of the batches in which outcomes were collected"


def _about_seconds(results: JSON) -> Paragraph | None:
    found = part(results, "replay", "latency")
    if not found:
        return None
    effects = ", ".join(f"{_percent(share)} {name}" for name, share in found["effects"].items())
    return Paragraph(
        text=(
            f"Seconds are those of the models, {_whose_seconds(results)}{_of_tools(found)}. "
            "Schedules other "
            "than one after the other are simulated from these seconds, in the order of the "
            f"logged episodes. A's mean call takes {fixed(found['ms_per_step'], 1)} ms."
            + (f" Effects of the cheap model's first guesses: {effects}." if effects else "")
            + (
                " What is not known to be a read may not run ahead of its check."
                if found["effects"].get("unknown") == 1.0
                else ""
            )
        )
    )


def _of_tools(found: JSON) -> str:
    """Whether the environment's seconds are in the schedules."""
    milliseconds = found.get("tool_ms_per_step")
    if milliseconds is None:
        return f", alone; seconds of tools: {found.get('tool_note') or 'not known'}"
    return (
        f", and of what was executed, {fixed(milliseconds, 3)} ms a step of A's: measured once for "
        "each proposal, in the environment at hand, and run after the decision"
    )


def schedules_table(results: JSON) -> Table | None:
    """Each system in each schedule; None without seconds."""
    found = [r for r in rows(results, "replay", "latency", "rows") if r["system"] in SHOWN]
    if not found:
        return None
    return table(
        (
            "system",
            "schedule",
            "seconds, × A",
            "cost, × A",
            "strong calls a step",
            "thrown away a step",
            "right early, %",
            "if hits were independent, × A",
            "apart, points",
        ),
        [
            (
                words(row["system"]),
                Cell(main=_schedule_title(row), below=_effects(row)),
                cell(metric(row, "relative_seconds"), most=2),
                cell(metric(row, "relative_cost"), most=2),
                words(fixed(float(row["strong_calls"]), 2)),
                words(_only(row, "wasted_runs", 2)),
                words(_only(row, "hit_rate", 1, 100.0)),
                words(fixed(float(row["independent"]), 2)),
                points(metric(row, "over_promise")),
            )
            for row in found
        ],
        caption=(
            f"{say_rows(metric(found[0], 'relative_seconds'))}; 95 % intervals over resampled "
            "tasks. One after the other, and beside the proposal, the gate decides, and accuracy "
            "is the system's. "
            + (OF_AHEAD if any(row["mode"] == "speculative" for row in found) else "")
            + f"Cost is in {UNIT_TITLES[part(results, 'replay', 'latency')['cost_unit']]}; "
            "cancelled calls count by the part that had run. "
            "Apart: what a reckoning with hits independent of time leaves out, positive where it "
            f"promises too much.{_without_seconds(results, found)}"
        ),
        num_words=2,
    )


def _without_seconds(results: JSON, found: list[JSON]) -> str:
    """Systems that cannot be in the table because not all of their seconds are known."""
    timed = {row["system"] for row in found} | {"A"}
    names = [
        str(row["name"])
        for row in rows(results, "replay", "costs")
        if row["name"] in SHOWN and row["name"] not in timed
    ]
    return f" Not known: the verifier's seconds of {listed(names)}." if names else ""


def _schedule_title(row: JSON) -> str:
    if row["mode"] != "speculative":
        return MODE_TITLES[row["mode"]]
    return "1 step ahead" if row["depth"] == 1 else f"{row['depth']} steps ahead"


def _effects(row: JSON) -> str:
    return f"{listed([f'{effect}s' for effect in row['effects']])} early" if row["effects"] else ""


def _only(row: JSON, key: str, places: int, scale: float = 1.0) -> str | None:
    """Of schedules that act ahead."""
    if row["mode"] != "speculative" or row.get(key) is None:
        return None
    return fixed(scale * float(row[key]), places)


def breadth_table(results: JSON) -> Table | None:
    """Several guesses at once, one step ahead; None without several."""
    breadth = part(results, "replay", "latency", "breadth")
    found = rows(breadth, "rows")
    if not found:
        return None
    return table(
        (
            "guesses",
            "one of them right, %",
            "worth independent guesses",
            "launched a step",
            "seconds, × A",
            "cost, × A",
            "thrown away a step",
            "seconds saved per second run",
        ),
        [
            (
                words(row["breadth"]),
                words(fixed(100.0 * float(breadth["coverage"][i]), 1)),
                words(_or_dash(breadth["effective_draws"][i])),
                words(fixed(float(breadth["num_distinct"][i]), 2)),
                cell(metric(row, "relative_seconds"), most=2),
                cell(metric(row, "relative_cost"), most=2),
                words(fixed(float(row["wasted_runs"]), 2)),
                words(_or_dash(breadth["saved_per_second_run"][i])),
            )
            for i, row in enumerate(found)
        ],
        caption=(
            "Acting on several of the cheap model's samples at once, one step ahead, reads only: "
            "coverage is counted, and guesses of one model are alike. Samples are drawn one after "
            "the other here, so that more of them make the first one wait. Seconds saved per "
            "second run: what the last guess added, against the time that cancelled calls ran."
        ),
    )


def _or_dash(value: float | None) -> str:
    return DASH if value is None else fixed(float(value), 2)
