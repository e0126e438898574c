"""What the numbers of a log mean for each use of it: yes, barely or no, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from specact_rl.eval.log_check import PAIR_SHARE, LogCheck, PairCheck, StrategyCount
from specact_rl.logs.tool_types import SEVERAL_CALLS, UNPARSABLE

FEW_TASKS = 30
"""Below this, intervals over tasks are unreliable; a rule of thumb."""
FEW_PAIRS = 100
"""Below this, preference training rarely moves a model measurably; a rule of thumb."""

FEW_STEPS = 500
"""Below this, imitation teaches a format at best; a rule of thumb."""
MIN_FOR_LENGTH = 20
"""Fewer pairs say nothing of which side is longer."""
SMALL_CHANGE = 0.05
"""A test that shows this difference of success rates counts as fit for comparisons."""

NOTABLE = 0.05
"""Share of the steps from which on an oddity is worth a warning."""

Answer = Literal["yes", "barely", "no"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One use of a log."""

    use: str
    answer: Answer
    because: str
    """A sentence with the numbers."""
    do: str = ""
    """What to do next; empty where nothing needs to be done."""


def verdicts(check: LogCheck) -> list[Verdict]:
    """Imitation, pairs, verifier, gate and comparison, in this order."""
    return [_imitation(check), _pairs(check), _verifier(check), _gate(check), _comparison(check)]


def percent(share: float) -> str:
    """A share in percent, one decimal."""
    return f"{100 * share:.1f} %"


def points(share: float | None) -> str:
    """A difference of shares in percentage points; words for None."""
    return "none possible" if share is None else f"{100 * share:.1f} points"


def best_strategy(check: LogCheck) -> StrategyCount | None:
    """The strategy with most pairs of what was really done; None when none has any."""
    logged = [s for s in check.strategies if s.num_pairs and s.strategy != "hard_negative"]
    return max(logged, key=lambda s: s.num_kept, default=None)


def _imitation(check: LogCheck) -> Verdict:
    use, steps = "Imitate successes (SFT)", check.num_demonstrated
    if steps:
        few = steps < FEW_STEPS
        return Verdict(
            use=use,
            answer="barely" if few else "yes",
            because=f"{steps:,} steps with an action in successful rollouts.",
            do="Start from a model that knows its tools: this teaches form only." if few else "",
        )
    if not check.counts["steps"]:
        because = "The log has verdicts only: no conversation, so no step to imitate."
        return Verdict(use=use, answer="no", because=because, do="Get the trajectories.")
    return Verdict(
        use=use,
        answer="no",
        because="No rollout with steps is known to have succeeded.",
        do="Score the rollouts, or give the importer the score files.",
    )


def _pairs(check: LogCheck) -> Verdict:
    use = "Preference pairs (DPO, reward model)"
    best = best_strategy(check)
    made_up = next((s for s in check.strategies if s.strategy == "hard_negative"), None)
    if best is None and made_up is not None and made_up.num_pairs:
        because = (
            f"No pair of logged actions; {made_up.num_pairs:,} of a right action against a made-up "
            "wrong one, which nothing has judged."
        )
        do = "Have a model propose at these steps: its own mistakes make better pairs."
        return Verdict(use=use, answer="barely", because=because, do=do)
    if best is None:
        do = "Several rollouts of the same tasks, with verdicts and their messages, make pairs."
        if not check.counts["steps"]:
            because = "There are no steps to pair."
        elif not check.facts.num_mixed_tasks:
            because = "No task has both a success and a failure."
        else:
            because = (
                f"{check.facts.num_mixed_tasks:,} tasks have both outcomes, but no success and "
                "failure part at an action after a like history: see the reasons below."
            )
        return Verdict(use=use, answer="no", because=because, do=do)
    few = best.num_expected < FEW_PAIRS or best.num_tasks < FEW_TASKS
    because = (
        f"`{best.strategy}` finds most: {best.num_kept:,} pairs on {best.num_tasks:,} tasks, of "
        f"which about {best.num_expected:,.0f} are left once the tasks are split."
    )
    do = (
        f"Add rollouts of these tasks (only {check.facts.num_mixed_tasks:,} have both outcomes), "
        f"or put more than {100 * PAIR_SHARE:.0f} % of the tasks into the pairs' split."
    )
    return Verdict(
        use=use, answer="barely" if few else "yes", because=because, do=do if few else ""
    )


def _verifier(check: LogCheck) -> Verdict:
    use = "Step verifier and its calibration"
    right = sum(counts.num_acceptable for counts in check.labels.values())
    wrong = sum(counts.num_not_acceptable for counts in check.labels.values())
    if not right and not wrong:
        because = "No step is labelled: an episode's verdict does not say which step was wrong."
        if check.counts["steps"] and check.facts.num_mixed_tasks:
            do = "Train on pairs instead, or let a judge or an environment label the steps."
        else:
            do = "Label steps with score files, a judge or an environment."
        return Verdict(use=use, answer="no", because=because, do=do)
    base = right / (right + wrong)
    because = f"{right + wrong:,} labelled steps, {percent(base)} of them acceptable."
    if not right or not wrong:
        do = "Add the other kind: run a model at these steps, its mistakes are the negatives."
        return Verdict(use=use, answer="no", because=because, do=do)
    few = min(right, wrong) < FEW_PAIRS or check.counts["tasks"] < FEW_TASKS
    do = "Use it to test a verifier trained elsewhere." if few else ""
    return Verdict(use=use, answer="barely" if few else "yes", because=because, do=do)


def _gate(check: LogCheck) -> Verdict:
    use = "Gate between a weak and a strong model"
    if not check.pairs:
        because = "No two models have verdicts on the same tasks."
        do = "Run a second model on these tasks, or join another log of them."
        return Verdict(use=use, answer="no", because=because, do=do)
    best = check.pairs[0]
    answer: Answer = "yes"
    do = "" if check.single_step else "Joins of logs do not hold past the first step: run it live."
    if best.faulty is not None:
        answer, do = "no", "Repair the decoding and score that model again."
    elif not best.facts.only_cheap:
        answer, do = "no", "Take models that are right on different tasks."
    elif not can_show(best):
        answer = "barely"
        do = f"{do} Use more tasks: not even a perfect gate could be told apart on the test split."
    return Verdict(use=use, answer=answer, because=_headroom(best), do=do.strip())


def can_show(pair: PairCheck) -> bool:
    """Whether a perfect gate's gain over the stronger model would show on the test split."""
    size = pair.power.test_tasks
    return size is not None and size <= pair.facts.oracle_headroom


def _headroom(pair: PairCheck) -> str:
    facts = pair.facts
    if pair.faulty is not None:
        return f"{pair.faulty} fails by its format and not by its calls (see the flags)."
    text = (
        f"Most to gain: {facts.cheap} under {facts.strong}, where a perfect gate adds "
        f"{points(facts.oracle_headroom)}"
    )
    if pair.retry_headroom is None:
        return f"{text}; how much a second try of {facts.strong} alone would add is not known."
    return f"{text}; a second try of {facts.strong} alone adds {points(pair.retry_headroom)}."


def _comparison(check: LogCheck) -> Verdict:
    use = "Tell two systems apart"
    if not check.agents:
        because = "Nothing is scored."
        return Verdict(use=use, answer="no", because=because, do="Score the rollouts.")
    widest = max(check.agents, key=lambda agent: (agent.facts.num_tasks, agent.facts.accuracy))
    if widest.facts.accuracy in (0.0, 1.0):
        because = f"{widest.facts.agent} has the same verdict everywhere, so nothing can differ."
        do = "Add rollouts of a model that is neither always right nor always wrong."
        return Verdict(use=use, answer="no", because=because, do=do)
    power = widest.power
    basis = (
        "taking two runs as independent"
        if widest.rerun_discordance is None
        else "given how often its own trials disagree"
    )
    because = (
        f"With one run a side, all {widest.facts.num_tasks:,} tasks show {_shown(power.all_tasks)} "
        f"in the success of {widest.facts.agent}; the {power.num_test_tasks:,} test tasks show "
        f"{_shown(power.test_tasks)} ({basis})."
    )
    if power.test_tasks is not None and power.test_tasks <= SMALL_CHANGE:
        return Verdict(use=use, answer="yes", because=because)
    do = "Average several trials a task, and put more tasks into the test split (--fractions)."
    answer: Answer = "no" if power.all_tasks is None else "barely"
    return Verdict(use=use, answer=answer, because=because, do=do)


def _shown(size: float | None) -> str:
    return "no change at all" if size is None else f"a change of {points(size)} or more"


def warnings(check: LogCheck) -> Iterator[str]:
    """What could mislead in the numbers of the page, in sentences."""
    facts = check.facts
    if facts.num_withheld:
        yield (
            f"{facts.num_withheld:,} rollouts are scored but their label is withheld, because the "
            "failure is not the model's own (see the flags). They count in accuracies and in no "
            "pair."
        )
    if facts.num_unscored:
        yield f"{facts.num_unscored:,} rollouts have no verdict; they are in no accuracy or pair."
    unparsable = check.histogram.get(UNPARSABLE, 0)
    if unparsable > NOTABLE * max(1, check.counts["steps"]):
        yield (
            f"{percent(unparsable / check.counts['steps'])} of the steps could not be parsed: look "
            "at some before training, it may be the importer and not the model."
        )
    several = check.histogram.get(SEVERAL_CALLS, 0)
    if several > NOTABLE * max(1, check.counts["steps"]):
        yield (
            f"{percent(several / check.counts['steps'])} of the steps hold several calls at once. "
            "They are no single action: in no step pair, and nothing that a gate can accept."
        )
    for s in check.strategies:
        if s.num_unparsable:
            yield (
                f"In {s.num_unparsable:,} of {s.num_kept:,} pairs of `{s.strategy}` the worse side "
                "could not be parsed: they teach the format and not the choice of an action."
            )
        if s.num_kept >= MIN_FOR_LENGTH and not 0.35 <= (s.chosen_longer or 0.0) <= 0.65:
            yield (
                f"In `{s.strategy}` the better side is the longer one in "
                f"{percent(s.chosen_longer or 0.0)} of the pairs: what is trained on them may "
                "learn length."
            )
