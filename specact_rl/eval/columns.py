"""The outcome tables as arrays over steps, so that systems and thresholds are array operations.

Evaluation reads arrays. The steps and proposals behind them are there for what shows or compares
texts (examples, baselines), and may be made on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TypeVar, get_args, overload

import numpy as np

from specact_rl.actions.canonical import proposal_hash
from specact_rl.actions.matching import reaches
from specact_rl.actions.schema import find_tool
from specact_rl.errors import ConfigError
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray
from specact_rl.types import Action, Effect, MatchLevel, Proposal, Rollout, Score, Step, StepRecord

LEVELS: tuple[MatchLevel, ...] = ("type", "tool", "arguments")
NO_ACTION = 0
"""Key of a proposal that could not be parsed."""
EFFECTS: tuple[Effect, ...] = get_args(Effect)
"""From the one that does nothing to the one that cannot be taken back."""
T = TypeVar("T")


class MadeOnDemand(Sequence[T]):
    """A sequence whose items are made when they are looked at, and not kept."""

    def __init__(self, make: Callable[[int], T], numbers: IntArray) -> None:
        """Take note of what makes the item of a number, and of the numbers in order."""
        self.make, self.numbers = make, numbers

    def __len__(self) -> int:
        """How many there are."""
        return self.numbers.size

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...

    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        """Make one, or look at some."""
        if isinstance(at, slice):
            return MadeOnDemand(self.make, self.numbers[at])
        return self.make(int(self.numbers[at]))


def chosen(items: Sequence[T], keep: BoolArray) -> Sequence[T]:
    """Those of the items that `keep`, of shape (n,), names."""
    if isinstance(items, MadeOnDemand):
        return MadeOnDemand(items.make, items.numbers[keep])
    return list(compress(items, keep))


def numbered(ids: Iterable[str]) -> IntArray:
    """Number of each id in sorted order of the distinct ones, shape (n,).

    Sorting strings takes longer than all that is done with them, so it is done once.
    """
    return np.unique(np.array(list(ids)), return_inverse=True)[1].astype(np.int64)


def first_of_their_kind(keys: IntArray) -> BoolArray:
    """Where a key is there for the first time in its row; never where it is NO_ACTION."""
    firsts = keys != NO_ACTION
    for k in range(1, keys.shape[1]):
        firsts[:, k] &= (keys[:, :k] != keys[:, k : k + 1]).all(axis=1)
    return np.asarray(firsts, dtype=np.bool_)


def effect_of(step: Step, proposal: Proposal) -> str:
    """Effect of what a proposal would do; "" where it is not known or cannot be parsed.

    What is said to a user cannot be taken back.
    """
    actions: Sequence[Action] = [proposal.action] if proposal.action else proposal.actions
    effects = {_effect(step, action) for action in actions}
    return next((worst for worst in ("", *EFFECTS[::-1]) if worst in effects), "")


def _effect(step: Step, action: Action) -> str:
    if action.tool is None:
        return "irreversible"
    spec = find_tool(action.tool, step.tools)
    return (spec.effect if spec else None) or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """The steps of a split with known labels, in order of rollout and index; n of them."""

    steps: Sequence[Step]
    task_ids: IntArray
    """Number of each step's task in sorted order of the tasks' ids, shape (n,); the clusters of
    every interval."""
    rollouts: IntArray
    """Rollout number of each step, ascending."""
    out_of_family: BoolArray
    reference_types: np.ndarray
    """Action type of the expert's action, "" where there is none, shape (n,)."""
    families: np.ndarray
    """Task family, shape (n,)."""
    indices: IntArray
    """Place of each step in its rollout, shape (n,)."""
    num_out_of_reach: int
    """Steps that were left out: no action is known to be right there, in an environment because
    the goal was out of reach."""

    @classmethod
    def of(cls, rollouts: Iterable[Rollout]) -> StepTable:
        """All steps of the rollouts whose goal was within reach."""
        return cls._where(rollouts, lambda record: record.cost_to_go is not None)

    @classmethod
    def of_references(cls, rollouts: Iterable[Rollout]) -> StepTable:
        """All steps of logged rollouts that have a reference action."""
        return cls._where(rollouts, lambda record: record.reference is not None)

    @classmethod
    def _where(
        cls, rollouts: Iterable[Rollout], labelled: Callable[[StepRecord], bool]
    ) -> StepTable:
        steps, numbers, held_out, num_out_of_reach = [], [], [], 0
        for number, rollout in enumerate(rollouts):
            for step, record in zip(rollout.each_step(), rollout.steps, strict=True):
                if not labelled(record):
                    num_out_of_reach += 1
                    continue
                steps.append(step)
                numbers.append(number)
                held_out.append(bool(rollout.info.get("out_of_family")))
        if not steps:
            raise ConfigError(
                "a split must have steps at which an action is known to be right, got none; give "
                "it a larger share of the tasks"
            )
        return cls(
            steps=steps,
            task_ids=numbered(step.task_id for step in steps),
            rollouts=np.array(numbers, dtype=np.int64),
            out_of_family=np.array(held_out, dtype=np.bool_),
            reference_types=np.array(
                [step.reference.type if step.reference else "" for step in steps]
            ),
            families=np.array([step.family for step in steps]),
            indices=np.array([step.index for step in steps], dtype=np.int64),
            num_out_of_reach=num_out_of_reach,
        )

    def take(self, keep: BoolArray) -> StepTable:
        """The chosen steps; `keep` has shape (n,)."""
        return replace(
            self,
            steps=chosen(self.steps, keep),
            task_ids=self.task_ids[keep],
            rollouts=self.rollouts[keep],
            out_of_family=self.out_of_family[keep],
            reference_types=self.reference_types[keep],
            families=self.families[keep],
            indices=self.indices[keep],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalColumns:
    """One model's proposals at n steps, k samples each."""

    model_id: str
    proposals: Sequence[Sequence[Proposal]]
    """By step, then sample."""
    acceptable: FloatArray
    """1 or 0, NaN where the label is unknown, shape (n, k)."""
    parsed: BoolArray
    """Shape (n, k)."""
    same_state: FloatArray
    """1 or 0, NaN where nothing can tell, shape (n, k)."""
    levels: dict[MatchLevel, BoolArray]
    """Whether the level is reached, each of shape (n, k)."""
    keys: IntArray
    """Equal where two proposals of a step, also of two models, are the same action; NO_ACTION where

    unparsable. Of this process alone. Shape (n, k)."""
    first_of_its_kind: BoolArray
    """Shape (n, k): False for an unparsable proposal or one that repeats an earlier sample."""
    num_distinct: IntArray
    """Distinct parsable actions of a step, the effective k, shape (n,)."""
    action_types: np.ndarray
    """"" where the proposal is not one action, shape (n, k)."""
    tools: np.ndarray
    """Names of the tools called; "" where the proposal is not one call, shape (n, k)."""
    effects: np.ndarray
    """Of EFFECTS, what the proposal would do; "" where that is not known, shape (n, k)."""
    logprob: FloatArray
    """Nats, shape (n, k)."""
    tokens_known: bool
    """Whether all tokens were counted; where not, the two counts below are 0 and mean nothing."""
    prompt_tokens: IntArray
    """Shape (n,)."""
    completion_tokens: IntArray
    """Shape (n, k)."""
    seconds: FloatArray
    """NaN where not known, shape (n, k)."""
    price: FloatArray
    """US dollars, NaN where not known, shape (n, k)."""
    tool_seconds: FloatArray
    """Of executing it, NaN where not known, shape (n, k)."""

    @classmethod
    def of(cls, table: StepTable, proposals: Sequence[Proposal]) -> ProposalColumns:
        """Join one model's proposals, all generated or all ranked, to the steps.

        Raises:
            ConfigError: Several models, or a step without all its samples, or with one twice.
        """
        models = {p.model_id for p in proposals}
        if len(models) != 1:
            raise ConfigError(f"proposals must be of one model, got {sorted(models)}")
        by_step: dict[str, list[Proposal]] = {}
        for proposal in sorted(proposals, key=lambda p: p.sample):
            by_step.setdefault(proposal.step_id, []).append(proposal)
        rows = [by_step.get(step.step_id, []) for step in table.steps]
        samples = {tuple(p.sample for p in row) for row in rows}
        if samples != {tuple(range(len(rows[0])))} or samples == {()}:
            raise ConfigError(
                f"model {models} must have the same samples 0, 1, ... at every step, once each, "
                f"got {sorted(samples)}; collect its outcomes again"
            )

        def array(value: Iterable[object], dtype: type) -> np.ndarray:
            return np.array(list(value), dtype=dtype).reshape(len(rows), -1)

        keys = np.array(
            [[_key(s, p) for p in row] for s, row in zip(table.steps, rows, strict=True)],
            dtype=np.int64,
        )
        flat = [p for row in rows for p in row]
        actions = [p.action for p in flat]
        first_of_its_kind = first_of_their_kind(keys)
        distinct = [row[-1].num_distinct for row in rows]
        num_distinct = (
            first_of_its_kind.sum(axis=1) if None in distinct else np.array(distinct)
        ).astype(np.int64)

        return cls(
            model_id=models.pop(),
            proposals=rows,
            acceptable=array((_number(p.acceptable) for p in flat), np.float64),
            parsed=array((p.parsed for p in flat), np.bool_),
            same_state=array((_number(p.same_state) for p in flat), np.float64),
            levels={
                level: array((reaches(p.match_level, level) for p in flat), np.bool_)
                for level in LEVELS
            },
            keys=keys,
            first_of_its_kind=first_of_its_kind,
            num_distinct=num_distinct,
            action_types=array((action.type if action else "" for action in actions), np.str_),
            tools=array((action.tool or "" if action else "" for action in actions), np.str_),
            effects=array(
                (effect_of(s, p) for s, row in zip(table.steps, rows, strict=True) for p in row),
                np.str_,
            ),
            logprob=array((_number(p.logprob) for p in flat), np.float64),
            tokens_known=all(
                None not in (p.num_prompt_tokens, p.num_completion_tokens) for p in flat
            ),
            prompt_tokens=np.array([row[0].num_prompt_tokens or 0 for row in rows], dtype=np.int64),
            completion_tokens=array((p.num_completion_tokens or 0 for p in flat), np.int64),
            seconds=array((_number(p.seconds) for p in flat), np.float64),
            price=array((_number(p.price) for p in flat), np.float64),
            tool_seconds=array((_number(p.tool_seconds) for p in flat), np.float64),
        )

    def take(self, keep: BoolArray) -> ProposalColumns:
        """The proposals at the chosen steps; `keep` has shape (n,)."""
        return replace(
            self,
            proposals=chosen(self.proposals, keep),
            acceptable=self.acceptable[keep],
            parsed=self.parsed[keep],
            same_state=self.same_state[keep],
            levels={level: reached[keep] for level, reached in self.levels.items()},
            keys=self.keys[keep],
            first_of_its_kind=self.first_of_its_kind[keep],
            num_distinct=self.num_distinct[keep],
            action_types=self.action_types[keep],
            tools=self.tools[keep],
            effects=self.effects[keep],
            logprob=self.logprob[keep],
            prompt_tokens=self.prompt_tokens[keep],
            completion_tokens=self.completion_tokens[keep],
            seconds=self.seconds[keep],
            price=self.price[keep],
            tool_seconds=self.tool_seconds[keep],
        )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _key(step: Step, proposal: Proposal) -> int:
    found = proposal_hash(proposal, step.tools)
    return NO_ACTION if found is None else hash(found)


def score_matrix(
    columns: ProposalColumns, scores: Sequence[Score], num_judged: int | None = None
) -> FloatArray:
    """A verifier's log-odds, shape (n, k); NaN where it could not judge, or was not asked.

    Args:
        columns: The proposals.
        scores: What the verifier said of them.
        num_judged: Samples of a step that it was asked about, the first ones; None for all.

    Raises:
        ConfigError: A proposal that it was asked about has no row in the scores.
    """
    return _matrix(columns, scores, "log_odds", num_judged)


def score_seconds(
    columns: ProposalColumns, scores: Sequence[Score], num_judged: int | None = None
) -> FloatArray:
    """A verifier's seconds, shape (n, k); otherwise as `score_matrix`."""
    return _matrix(columns, scores, "seconds", num_judged)


def score_price(
    columns: ProposalColumns, scores: Sequence[Score], num_judged: int | None = None
) -> FloatArray:
    """What a server was paid for judging, US dollars, shape (n, k); otherwise as `score_matrix`."""
    return _matrix(columns, scores, "price", num_judged)


def _matrix(
    columns: ProposalColumns, scores: Sequence[Score], name: str, num_judged: int | None
) -> FloatArray:
    found = {score.proposal_id: score for score in scores}

    def value(proposal: Proposal) -> float:
        if num_judged is not None and proposal.sample >= num_judged:
            return float("nan")
        if proposal.proposal_id not in found:
            raise ConfigError(
                f"proposal {proposal.proposal_id!r} has no score; score all proposals of the split"
            )
        return _number(getattr(found[proposal.proposal_id], name))

    return np.array([[value(p) for p in row] for row in columns.proposals], dtype=np.float64)
