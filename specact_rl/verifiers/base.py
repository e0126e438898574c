"""The one protocol of all verifiers: log-odds of being acceptable, for proposals at steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from specact_rl.actions.canonical import action_hash
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import FloatArray
from specact_rl.rendering import Renderer, StepPrompt
from specact_rl.types import Message, Proposal, Rollout, Score, Step


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Item:
    """One proposal to be judged, with what a verifier may look at.

    An item equals itself alone, so that what is computed of it can be kept while it lives.
    """

    step: Step
    prompt: StepPrompt | None = None
    """The step's prompt in the verifier's own tokens, shared with the rollout's other steps; None
    for verifiers that read no tokens."""
    proposal: Proposal
    response: Sequence[Message] | None = None
    """All that followed the history, where that is more than the proposal's one action: several
    calls, or a logged episode. None otherwise."""
    siblings: tuple[Proposal, ...]
    """All proposals that the same model made in the same mode at this step, this one included."""

    @property
    def tokens(self) -> StepPrompt:
        """The prompt, for a verifier that cannot do without.

        Raises:
            ValueError: The item was made without one.
        """
        if self.prompt is None:
            raise ValueError(f"it reads tokens, so it needs the prompt of {self.step.step_id}")
        return self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """What a verifier says, and what it had to compute for that; arrays of shape (num_items,)."""

    log_odds: FloatArray
    """Higher is better; NaN where a proposal cannot be judged. Verifiers of whole responses also
    judge text that could not be parsed; whoever decides has to refuse that by itself."""
    num_tokens: np.ndarray
    """Tokens computed for each item; 0 for verifiers that run no model."""
    num_cached_tokens: np.ndarray
    seconds: FloatArray | None = None
    """Each item's own; None: whoever asks shares the wall time out."""
    price: FloatArray | None = None
    """US dollars paid for each item, NaN where that is not known; None: nobody is paid."""


class Verifier(Protocol):
    """Says how likely proposals are right."""

    @property
    def verifier_id(self) -> str:
        """Name, and hash of the weights where there are any."""

    @property
    def size(self) -> ModelSize | None:
        """What a forward pass costs; nothing for verifiers that run no model, None: not known."""

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of each item."""


def items_of(
    rollouts: Iterable[Rollout], proposals: Sequence[Proposal], renderer: Renderer | None
) -> list[Item]:
    """Items in the order of the proposals.

    Args:
        rollouts: With the proposals' steps.
        proposals: To be judged.
        renderer: Of the verifier's prompts; None for verifiers that read no tokens.

    Raises:
        ValueError: A proposal's step is in none of the rollouts.
    """
    wanted = {p.step_id for p in proposals}
    siblings: dict[tuple[str, str, str], list[Proposal]] = {}
    for proposal in proposals:
        siblings.setdefault(_draw(proposal), []).append(proposal)
    places: dict[str, tuple[Step, StepPrompt | None]] = {}
    for rollout in rollouts:
        steps = list(rollout.each_step())
        if wanted.isdisjoint(step.step_id for step in steps):
            continue
        prompts: Sequence[StepPrompt | None] = (
            renderer.rollout_ids(rollout).prompts() if renderer else [None] * len(steps)
        )
        places |= {s.step_id: (s, p) for s, p in zip(steps, prompts, strict=True)}
    missing = sorted(wanted - places.keys())
    if missing:
        raise ValueError(f"{len(missing)} proposals have no rollout, {missing[0]!r} first")
    return [
        Item(
            step=places[p.step_id][0],
            prompt=places[p.step_id][1],
            proposal=p,
            siblings=tuple(siblings[_draw(p)]),
        )
        for p in proposals
    ]


def _draw(proposal: Proposal) -> tuple[str, str, str]:
    return proposal.step_id, proposal.model_id, proposal.mode


def distinct_items(items: Sequence[Item]) -> tuple[list[Item], list[int | None]]:
    """One item per step and canonical action, and for each input its place among them.

    A verifier that runs a model pays for each distinct action once. Unparsable proposals have no
    place (None).
    """
    kept: list[Item] = []
    found: dict[tuple[str, str], int] = {}
    places: list[int | None] = []
    for item in items:
        if item.proposal.action is None:
            places.append(None)
            continue
        key = (item.step.step_id, action_hash(item.proposal.action, item.step.tools))
        if key not in found:
            found[key] = len(kept)
            kept.append(item)
        places.append(found[key])
    return kept, places


def spread(
    places: Sequence[int | None], log_odds: Sequence[float], tokens: Mapping[int, tuple[int, int]]
) -> Judgements:
    """Judgements of all items from those of the distinct ones; repeats cost no tokens."""
    paid: set[int] = set()
    num_tokens = np.zeros(len(places), dtype=np.int64)
    num_cached = np.zeros(len(places), dtype=np.int64)
    values = np.full(len(places), np.nan)
    for i, place in enumerate(places):
        if place is None:
            continue
        values[i] = log_odds[place]
        if place not in paid:
            paid.add(place)
            num_tokens[i], num_cached[i] = tokens.get(place, (0, 0))
    return Judgements(log_odds=values, num_tokens=num_tokens, num_cached_tokens=num_cached)


def scores_of(
    verifier: Verifier, items: Sequence[Item], judgements: Judgements, seconds: float
) -> list[Score]:
    """Rows of the scores table.

    Args:
        verifier: Who judged.
        items: What.
        judgements: How.
        seconds: Wall time of the whole batch, shared evenly among the items that took any:
            those with tokens, or else those that could be judged. Where the judgements have
            seconds of their own, those count.
    """
    worked = judgements.num_tokens > 0
    if not worked.any():
        worked = ~np.isnan(judgements.log_odds)
    shares = np.where(worked, seconds / max(1, int(worked.sum())), 0.0)
    if judgements.seconds is not None:
        shares = judgements.seconds
    paid = np.full(len(items), np.nan) if judgements.price is None else judgements.price
    return [
        Score(
            proposal_id=item.proposal.proposal_id,
            verifier_id=verifier.verifier_id,
            log_odds=None if np.isnan(value) else float(value),
            num_tokens=int(tokens),
            num_cached_tokens=int(cached),
            seconds=float(share),
            price=None if np.isnan(price) else float(price),
        )
        for item, value, tokens, cached, share, price in zip(
            items,
            judgements.log_odds,
            judgements.num_tokens,
            judgements.num_cached_tokens,
            shares,
            paid,
            strict=True,
        )
    ]
