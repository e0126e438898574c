"""The check of a log as a Markdown page: what there is, what follows from it, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from specact_rl.eval.log_check import (
    MAX_PER_TASK,
    PAIR_SHARE,
    AgentCheck,
    LogCheck,
    PairCheck,
    StrategyCount,
)
from specact_rl.eval.log_verdicts import percent, points, verdicts, warnings
from specact_rl.logs.result import Flag
from specact_rl.mining.pair_report import (
    ACTION,
    FIRST_USER,
    LATER_USER,
    NO_STEPS,
    distances_in_words,
    partings_in_words,
    total_places,
)
from specact_rl.mining.pairs import APPROX, CONTRASTS

NUM_SHOWN = 10
"""Rows of a table of models or pairs; the JSON has all."""

_STRATEGIES = {
    "outcome": "whole success against whole failure",
    "divergence": "the action where a success and a failure part, same history",
    "approx_prefix": "the same after the same calls, though not the same words",
    "hard_negative": "a known right action against a made-up wrong one",
}
_REASONS = {
    "task_without_contrast": "tasks without both outcomes",
    "different_start": "begin with different messages",
    "different_tools": "have different tools",
    "parts_at_user_message": "part at a user's message, not at an action",
    "parts_at_tool_result": "part at a tool's result, not at an action",
    "parts_in_wording": "part in wording only",
    "never_parts": "never part",
    "too_distant": "histories too far apart",
    "same_calls": "make the same calls",
    "identical_history": "have the same history (divergence has them)",
    "same_actions": "do the same",
    "duplicate": "repeat another pair",
    "no_steps": "have no steps",
    "no_reference": "steps without a known right action",
    "no_variation": "actions that nothing in sight varies",
    "unparsable_chosen": "better side unparsable",
    "several_calls": "a side of several calls",
    "no_text": "the worse side's words are not in the log",
    "faulty_failure": "failures of a fault or of the format alone",
}


def check_page(check: LogCheck) -> str:
    """The whole page, ending in a newline."""
    return "\n".join(_lines(check)).rstrip("\n") + "\n"


def import_page(
    *,
    importer: str,
    reason: str,
    counts: Mapping[str, int],
    dropped: Mapping[str, int],
    flags: Sequence[Flag],
) -> str:
    """What an import read and wrote, ending in a newline."""
    numbers = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    lines = [f"Read as {importer}: {reason}.", "", f"Written: {numbers}.", ""]
    lines += _dropped(dropped)
    lines += _flags(flags)
    return "\n".join(lines).rstrip("\n") + "\n"


def _lines(check: LogCheck) -> Iterator[str]:
    counts, facts = check.counts, check.facts
    models = len(facts.agents)
    yield "# What this log supports"
    yield ""
    yield f"`{check.path}`: read as **{check.importer}** ({check.reason})."
    yield ""
    yield (
        f"{counts['rollouts']:,} rollouts of {counts['tasks']:,} tasks, {counts['steps']:,} steps; "
        f"{models:,} model{'' if models == 1 else 's'} with verdicts. {facts.num_mixed_tasks:,} "
        f"tasks have both a success and a failure ({facts.num_outcome_pairs:,} such pairs of "
        f"rollouts). At {facts.num_paired_steps:,} steps two rollouts or more stand after the very "
        "same history."
    )
    yield ""
    yield "## In short"
    yield ""
    for v in verdicts(check):
        yield f"- **{v.use}: {v.answer}.** {v.because}{f' Do: {v.do}' if v.do else ''}"
    yield ""
    yield from _models(check.agents, check.num_left_out)
    yield from _pairs(check)
    yield from _noise(check)
    yield from _strategies(check)
    yield from _labels(check)
    yield from _actions(check.histogram)
    yield from _doubts(check)


def _models(agents: Sequence[AgentCheck], num_left_out: int) -> Iterator[str]:
    if not agents:
        return
    yield "## Models"
    yield ""
    if num_left_out:
        yield (
            f"Here, in the next table and in the labels {num_left_out:,} tasks are left out: no "
            "model solves any of their categories, which are flagged below."
        )
        yield ""
    shown = sorted(agents, key=lambda agent: -agent.facts.accuracy)[:NUM_SHOWN]
    most = max(max(agent.facts.pass_hat, default=1) for agent in shown)
    ks = range(2, most + 1)
    header = ["model", "tasks", "rollouts", "success", *(f"all {k} succeed" for k in ks)]
    header += ["second try adds", "smallest visible change"]
    rows = []
    for agent in shown:
        facts = agent.facts
        retry = facts.retry_headroom
        row = [facts.agent, f"{facts.num_tasks:,}", f"{facts.num_rollouts:,}"]
        row.append(percent(facts.accuracy))
        row += [percent(facts.pass_hat[k]) if k in facts.pass_hat else "–" for k in ks]
        row.append("–" if retry is None else f"+{points(retry)}")
        rows.append([*row, points(agent.power.all_tasks)])
    yield from _table(header, rows)
    yield from _more(len(agents), "models")
    yield (
        'Success is the mean over tasks; "all k succeed" is pass^k, over the tasks with k trials. '
        '"Second try adds" is what choosing the better of two tries of the same model adds: as '
        "much of a gate's headroom between two models may be luck. The last column is the smallest "
        "true change that one run a side shows on all these tasks (80 % power, 5 % two-sided)."
    )
    yield ""


def _pairs(check: LogCheck) -> Iterator[str]:
    if not check.pairs:
        return
    yield "## A weaker model under a stronger one"
    yield ""
    header = ["weaker / stronger", "tasks", "success", "both", "only weaker", "only stronger"]
    header += ["neither", "perfect gate adds", "second try adds", "visible: all, test"]
    yield from _table(header, [_pair_row(pair) for pair in check.pairs[:NUM_SHOWN]])
    yield from _more(len(check.pairs), "pairs")
    yield (
        "Weaker and stronger by success on the tasks in common, first trials; which one is cheaper "
        "the log does not say. A large model below a small one is often a harness fault: look "
        "before you use it. A gate can gain only on the tasks that the weaker one alone solves; "
        "models that are level gain most and save least. "
        '"Visible" is the smallest difference from one of the two that the tasks show, all of '
        "them and a default test split: a gain below it cannot be told from chance."
    )
    if not check.single_step:
        yield ""
        yield (
            "Rollouts have several steps: these numbers choose between whole episodes. A gate that "
            "decides step by step changes what comes after, which only live runs show."
        )
    yield ""


def _pair_row(pair: PairCheck) -> list[str]:
    facts, power = pair.facts, pair.power
    return [
        f"{facts.cheap} / {facts.strong}{'' if pair.faulty is None else ' (flagged)'}",
        f"{facts.num_tasks:,}",
        f"{percent(facts.cheap_accuracy)} / {percent(facts.strong_accuracy)}",
        *(f"{n:,}" for n in (facts.both, facts.only_cheap, facts.only_strong, facts.neither)),
        f"+{points(facts.oracle_headroom)}",
        "no second try" if pair.retry_headroom is None else f"+{points(pair.retry_headroom)}",
        f"{points(power.all_tasks)}, {points(power.test_tasks)}",
    ]


def _noise(check: LogCheck) -> Iterator[str]:
    never = check.never_solved
    if not never.num_judged:
        return
    who = "no model passes" if len(check.agents) > 1 else "the model never passes"
    yield "## Tasks that nobody solves"
    yield ""
    share = percent(never.num_tasks / never.num_judged)
    yield (
        f"{never.num_tasks:,} of {never.num_judged:,} tasks with two verdicts or more ({share}) "
        f"are such that {who}: hard, wrongly labelled, or broken in the run. "
        f"{check.facts.num_always_solved:,} are always solved. Neither gives pairs of outcomes."
    )
    if never.num_degenerate:
        yield (
            f"{never.num_degenerate:,} of them lie in categories flagged below as degenerate: "
            "leave these out of every comparison."
        )
    if len(never.by_family) > 1:
        top = [f"{name} {n:,}" for name, n in list(never.by_family.items())[:5]]
        yield f"By category: {', '.join(top)}{', …' if len(never.by_family) > 5 else ''}."
    if never.examples:
        yield (
            f"Read a few before you trust the scores, drawn by chance: {', '.join(never.examples)}."
        )
    yield ""


def _strategies(check: LogCheck) -> Iterator[str]:
    yield "## Pairs that can be mined"
    yield ""
    places = total_places(check.partings)
    if places:
        yield partings_in_words(places)
        approx = next(s for s in check.strategies if s.strategy == APPROX)
        yield distances_in_words(approx.distances, approx.dropped.get("too_distant", 0))
        yield ""
    header = ["strategy", "what is paired", "pairs", f"at most {MAX_PER_TASK} a task", "tasks"]
    header += [f"expected in {100 * PAIR_SHARE:.0f} % of the tasks", "better side longer"]
    header += ["why not more"]
    yield from _table(header, [_strategy_row(s) for s in check.strategies])
    yield from _categories(check)
    yield (
        f"The builder of preferences takes its tasks from one split, {100 * PAIR_SHARE:.0f} % of "
        "them by default. Strategies overlap: do not add them up. `same_prefix` and `on_policy` "
        "need proposals of a model at these steps (data_builders/build_preferences.py "
        "--proposals). The two sides are not matched in length; the builder's --max-length-ratio "
        "and --max-turn-gap do that."
    )
    yield ""


def _categories(check: LogCheck) -> Iterator[str]:
    """Where rollouts part, by category, where there are several."""
    families = sorted(check.partings, key=lambda name: -sum(check.partings[name].values()))
    if len(families) < 2 or set(total_places(check.partings)) == {NO_STEPS}:
        return
    header = ["category", "successes with failures", "part at first user's message"]
    header += ["at a later one", "at an action", "elsewhere or never"]
    logged = [s for s in check.strategies if s.strategy in CONTRASTS]
    header += [f"`{s.strategy}`" for s in logged]
    rows = []
    for name in families[:NUM_SHOWN]:
        places = check.partings[name]
        shown = [places.get(place, 0) for place in (FIRST_USER, LATER_USER, ACTION)]
        total = sum(places.values())
        numbers = [total, *shown, total - sum(shown), *(s.by_family.get(name, 0) for s in logged)]
        rows.append([name, *(f"{number:,}" for number in numbers)])
    yield from _table(header, rows)
    yield from _more(len(families), "categories")


def _strategy_row(s: StrategyCount) -> list[str]:
    why = [f"{count:,} {_REASONS.get(r, r.replace('_', ' '))}" for r, count in s.dropped.items()]
    return [
        f"`{s.strategy}`",
        _STRATEGIES.get(s.strategy, ""),
        f"{s.num_pairs:,}",
        f"{s.num_kept:,}",
        f"{s.num_tasks:,}",
        f"{s.num_expected:.0f}",
        "–" if s.chosen_longer is None else percent(s.chosen_longer),
        "; ".join(why[:3]) or "–",
    ]


def _labels(check: LogCheck) -> Iterator[str]:
    if not check.labels:
        return
    yield "## Labels of steps"
    yield ""
    rows = [
        [source, f"{c.num_acceptable:,}", f"{c.num_not_acceptable:,}", f"{c.num_unknown:,}"]
        for source, c in check.labels.items()
    ]
    yield from _table(["source", "acceptable", "not acceptable", "unknown"], rows)


def _actions(histogram: Mapping[str, int]) -> Iterator[str]:
    total = sum(histogram.values())
    if not total:
        return
    yield "## Steps by action type"
    yield ""
    rows = [[kind, f"{n:,}", percent(n / total)] for kind, n in histogram.items()]
    yield from _table(["type", "steps", "share"], rows)
    yield (
        "Wrong types? Edit a tool table and pass it: --tool-types FILE.toml. Types of texts rest "
        "on patterns and are good to a few points. A type that is nearly absent here can be "
        "neither learnt nor judged from this log."
    )
    yield ""


def _doubts(check: LogCheck) -> Iterator[str]:
    found = list(warnings(check))
    if found:
        yield "## Beware"
        yield ""
        yield from (f"- {warning}" for warning in found)
        yield ""
    yield from _dropped(check.dropped)
    yield from _flags(check.flags)


def _dropped(dropped: Mapping[str, int]) -> Iterator[str]:
    reasons = [f"- {name.replace('_', ' ')}: {count:,}" for name, count in dropped.items() if count]
    yield "## Dropped on reading"
    yield ""
    yield from reasons or ["Nothing."]
    yield ""


def _flags(flags: Sequence[Flag]) -> Iterator[str]:
    yield "## Flags: doubts about the labels"
    yield ""
    yield from [f"- {flag.kind}, {flag.group}: {flag.detail}" for flag in flags] or ["None."]
    yield ""


def _more(count: int, what: str) -> Iterator[str]:
    if count > NUM_SHOWN:
        yield f"{count - NUM_SHOWN:,} further {what} are in the JSON (--out FILE.json)."
        yield ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
    yield ""
