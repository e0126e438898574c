"""The live speculative loop: a system's models, verifier and gate deciding on steps as they come.

Decides as the replay of recorded outcomes does. Knows steps, not environments: who executes the
actions calls `decide_steps` once per round with the steps that are due.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from specact_rl.metrics.call_costs import num_cached
from specact_rl.metrics.cost import ModelSize
from specact_rl.models.language_model import Sampling, step_prompt
from specact_rl.policy.asking import ActionModel, LiveVerifier, TimedJudgements, judge_timed
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import System
from specact_rl.rendering import Renderer
from specact_rl.types import Action, Decision, Proposal, Step
from specact_rl.verifiers.base import Item, distinct_items
from specact_rl.verifiers.models import StrongJudge
from specact_rl.verifiers.server_judge import ServerJudge

Role = Literal["proposer", "verifier", "strong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """What one model did at one step."""

    role: Role
    size: ModelSize | None
    """Nothing for a verifier that runs no model; None for a server's, which nobody knows."""
    num_prompt_tokens: int
    """Length of the prompt, whatever of it is cached; `TokenLedger` says what has to be read."""
    new_tokens: tuple[int, ...]
    """Tokens of each text that follows the prompt: of written ones, or of judged proposals."""
    seconds: float
    """Share of the batch's wall time when the answer was first given; who gets it remembered pays
    that, too."""
    price: float | None = None
    """US dollars, likewise; None: not known, or nobody is paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDecision:
    """What a system does at one step."""

    action: Action | None
    """To be executed; None when `text` could not be parsed."""
    text: str
    """What the model that acts wrote."""
    finished: bool
    """False when the token limit cut `text` off; there is no action then."""
    accepted: bool
    """The proposal is executed. False: the strong model's action."""
    pick: int | None
    """Sample that was offered to the gate; None without a proposer."""
    offered: Action | None
    """That sample's action; None where it could not be parsed, too."""
    log_odds: float | None
    """Raw score of it; None without a verifier, or with nothing to judge."""
    p_accept: float | None
    """Calibrated probability in [0, 1]; None without a gate, or with nothing to judge."""
    reason: str
    """As in `Decision`, and "no_proposer" or "no_fallback" where the system leaves no choice."""
    calls: tuple[ModelCall, ...]
    """In the order they were made."""


@dataclass(slots=True)
class TokenLedger:
    """The tokens of one episode's calls, cached prefixes not paid twice.

    A model pays for the prompt beyond its last call in the episode, and for all new tokens: the
    rule of the replay (`num_cached`).
    """

    _read: dict[Role, int] = field(default_factory=dict)

    def flops(self, calls: Sequence[ModelCall]) -> int | None:
        """Forward FLOPs of a step's calls, which are then behind the ledger; None: not known."""
        total = 0
        for call in calls:
            if call.size is None:
                return None
            end = call.num_prompt_tokens
            total += call.size.flops(num_cached(end, self._read.get(call.role, 0)), end)
            total += sum(call.size.flops(end, end + new) for new in call.new_tokens)
            self._read[call.role] = end
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSystem:
    """A system with its parts, ready to act."""

    system: System
    strong: ActionModel
    """Acts where there is no proposer, or where its proposal is rejected."""
    proposer: ActionModel | None = None
    verifier: LiveVerifier | None = None
    """A `StrongJudge` is the strong model itself: it is handed the strong model's own proposals
    of each round, and its reading is the fallback's."""
    renderer: Renderer | None = None
    """Of the verifier's prompts; needed with one, but for a server's, which renders its own."""
    gate: Gate | None = None
    """Needed where the system has a verifier and a fallback, refused elsewhere."""
    sampling: Sampling
    """Of the proposals. `num_samples` are drawn and paid for, the system's `num_proposals` are
    offered; a verifier that compares siblings (agreement) needs as many as it was fitted with."""

    def __post_init__(self) -> None:
        """Check that the parts are the system's.

        Raises:
            ValueError: One is missing or too much, or too few samples are drawn.
            ConfigError: The gate was fitted for another verifier or proposer.
        """
        system = self.system
        for name, wanted in (
            ("proposer", system.proposer is not None),
            ("verifier", system.verifier is not None),
            ("renderer", system.verifier is not None and not self._asks_server),
            ("gate", system.gated),
        ):
            if (getattr(self, name) is not None) != wanted:
                raise ValueError(
                    f"system {system.name} {'needs a' if wanted else 'has no'} {name}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.proposer is not None and self.sampling.num_samples < system.num_proposals:
            raise ValueError(
                f"system {system.name} offers {system.num_proposals} proposals, "
                f"got num_samples={self.sampling.num_samples!r}"
            )
        if self.gate is not None and self.verifier is not None and self.proposer is not None:
            self.gate.check_matches(
                verifier_id=self.verifier.verifier_id, proposer_id=self.proposer.model_id
            )

    @property
    def _asks_server(self) -> bool:
        return isinstance(self.verifier, ServerJudge)

    def decide_steps(self, steps: Sequence[Step]) -> list[LiveDecision]:
        """What to do at each of the steps; they are batched, and do not depend on each other.

        Raises:
            ValueError: Two steps of the same id.
        """
        if len({step.step_id for step in steps}) < len(steps):
            raise ValueError("steps that are decided together must have distinct ids")
        if self.proposer is None:
            own = self._strong_actions(steps)
            return [self._strong_alone(own[step.step_id]) for step in steps]
        proposed = self.proposer.propose(steps, self.sampling)
        # The judge compares with the strong model's own action, so that it comes first.
        own = self._strong_actions(steps) if isinstance(self.verifier, StrongJudge) else {}
        offers = self._offers(steps, proposed, own)
        decisions = [
            self._decide(samples, offer) for samples, offer in zip(proposed, offers, strict=True)
        ]
        rejected = [s for s, d in zip(steps, decisions, strict=True) if not d.accept]
        fallback = own or self._strong_actions(rejected)
        return [
            self._combined(samples, offer, decision, fallback.get(step.step_id))
            for step, samples, offer, decision in zip(
                steps, proposed, offers, decisions, strict=True
            )
        ]

    def _strong_actions(self, steps: Sequence[Step]) -> dict[str, Proposal]:
        """The strong model's greedy proposal by step id."""
        if not steps:
            return {}
        proposed = self.strong.propose(steps, replace(self.sampling, num_samples=1))
        return {step.step_id: row[0] for step, row in zip(steps, proposed, strict=True)}

    def _strong_alone(self, own: Proposal) -> LiveDecision:
        return LiveDecision(
            action=own.action,
            text=own.text,
            finished=own.finished,
            accepted=False,
            pick=None,
            offered=None,
            log_odds=None,
            p_accept=None,
            reason="no_proposer",
            calls=(_writing("strong", self.strong.size, [own]),),
        )

    def _offers(
        self,
        steps: Sequence[Step],
        proposed: Sequence[Sequence[Proposal]],
        own: Mapping[str, Proposal],
    ) -> list[_Offer]:
        """The likeliest distinct proposal of each step."""
        if self.verifier is None:
            return [_Offer(pick=0, log_odds=None, call=None) for _ in steps]
        verifier = self.verifier
        if isinstance(verifier, StrongJudge):
            verifier = replace(verifier, own=own)
        items, _ = distinct_items(self._items(steps, proposed))
        if not items:
            return [_Offer(pick=0, log_odds=None, call=None) for _ in steps]
        judged = judge_timed(verifier, items)
        of_step: dict[str, list[int]] = {step.step_id: [] for step in steps}
        for i, item in enumerate(items):
            of_step[item.step.step_id].append(i)
        return [
            _offer(verifier, [items[i] for i in places], judged.rows(places))
            for places in of_step.values()
        ]

    def _items(self, steps: Sequence[Step], proposed: Sequence[Sequence[Proposal]]) -> list[Item]:
        items = []
        for step, samples in zip(steps, proposed, strict=True):
            prompt = None if self.renderer is None else step_prompt(self.renderer, step)
            items += [
                Item(step=step, prompt=prompt, proposal=proposal, siblings=tuple(samples))
                for proposal in samples[: self.system.num_proposals]
            ]
        return items

    def _decide(self, samples: Sequence[Proposal], offer: _Offer) -> Decision:
        if not self.system.fallback:
            return Decision(accept=True, p_accept=None, reason="no_fallback")
        if self.gate is not None:
            return self.gate.decide_one(offer.log_odds)
        parsed = samples[offer.pick].action is not None
        return Decision(accept=parsed, p_accept=None, reason="accepted" if parsed else "unparsable")

    def _combined(
        self,
        samples: Sequence[Proposal],
        offer: _Offer,
        decision: Decision,
        own: Proposal | None,
    ) -> LiveDecision:
        assert self.proposer is not None  # else the strong model is alone
        calls = [_writing("proposer", self.proposer.size, samples)]
        if offer.call is not None:
            calls.append(offer.call)
        acting = samples[offer.pick]
        if own is not None:
            calls.append(_writing("strong", self.strong.size, [own]))
        if not decision.accept:
            assert own is not None  # every rejected step was asked for
            acting = own
        return LiveDecision(
            action=acting.action,
            text=acting.text,
            finished=acting.finished,
            accepted=decision.accept,
            pick=offer.pick,
            offered=samples[offer.pick].action,
            log_odds=offer.log_odds,
            p_accept=decision.p_accept,
            reason=decision.reason,
            calls=tuple(calls),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """What is put before the gate at one step."""

    pick: int
    """Place among the samples; 0 where nothing was scored."""
    log_odds: float | None
    """None without a verifier, or where nothing was scored."""
    call: ModelCall | None
    """The judging; None where there was nothing to judge."""


def _offer(verifier: LiveVerifier, items: Sequence[Item], judged: TimedJudgements) -> _Offer:
    """The likeliest of one step's distinct proposals."""
    if not items:
        return _Offer(pick=0, log_odds=None, call=None)
    # The prompt once, then what each distinct proposal adds to it. A server counts its own prompts,
    # of which the shortest stands for what they have in common.
    prompt = items[0].prompt
    length = int(judged.num_tokens.min()) if prompt is None else len(prompt.ids)
    added = np.maximum(judged.num_tokens - length, 0)
    call = ModelCall(
        role="strong" if isinstance(verifier, StrongJudge) else "verifier",
        size=verifier.size,
        num_prompt_tokens=length,
        new_tokens=tuple(map(int, added)),
        seconds=float(judged.seconds.sum()),
        price=None if judged.price is None else _known(judged.price.tolist()),
    )
    scores = np.where(np.isfinite(judged.log_odds), judged.log_odds, -np.inf)
    best = int(scores.argmax())
    if not np.isfinite(scores[best]):
        return _Offer(pick=0, log_odds=None, call=call)
    return _Offer(pick=items[best].proposal.sample, log_odds=float(scores[best]), call=call)


def _writing(role: Role, size: ModelSize | None, samples: Sequence[Proposal]) -> ModelCall:
    return ModelCall(
        role=role,
        size=size,
        num_prompt_tokens=_measured(samples[0].num_prompt_tokens, size),
        new_tokens=tuple(_measured(sample.num_completion_tokens, size) for sample in samples),
        seconds=sum(sample.seconds or 0.0 for sample in samples),
        price=_known([sample.price for sample in samples]),
    )


def _known(prices: Sequence[float | None]) -> float | None:
    """Their sum; None where one is not known."""
    known = [price for price in prices if price is not None and not np.isnan(price)]
    return sum(known) if len(known) == len(prices) else None


def _measured(tokens: int | None, size: ModelSize | None) -> int:
    if tokens is None and size is None:  # a server that gave no answer
        return 0
    if tokens is None:
        raise ValueError("a model that acts live must count its tokens, got None")
    return tokens
