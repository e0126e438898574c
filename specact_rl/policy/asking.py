"""How live systems ask models and verifiers: timed, and the same question only once.

Several systems come to the same steps with the same histories. What was answered to one is handed
to the next with the costs it had, so that each pays as if it had asked by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from specact_rl.actions.serialise import action_text
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import FloatArray, IntArray
from specact_rl.models.language_model import Sampling
from specact_rl.store import content_hash
from specact_rl.types import Proposal, Step
from specact_rl.verifiers.base import Item, Verifier
from specact_rl.verifiers.models import ClassifierVerifier


class ActionModel(Protocol):
    """What is asked for actions: a `LanguageModel` or a `ChatModel`."""

    @property
    def model_id(self) -> str:
        """Name, and hash of the weights where there are any."""

    @property
    def size(self) -> ModelSize | None:
        """What a forward pass costs; None where it is not known."""

    def propose(self, steps: Sequence[Step], sampling: Sampling) -> list[list[Proposal]]:
        """`sampling.num_samples` proposals at each step, the greedy one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedJudgements:
    """What a verifier says of some proposals, and what it cost; arrays of shape (num_items,)."""

    log_odds: FloatArray
    """Higher is better; NaN where a proposal cannot be judged."""
    num_tokens: IntArray
    """Length of prompt and proposal, cached or not; 0 for verifiers that run no model."""
    seconds: FloatArray
    """Share of the batch's wall time; of a server's answers their own."""
    price: FloatArray | None = None
    """US dollars, NaN where not known; None: nobody is paid."""

    def rows(self, places: Sequence[int]) -> TimedJudgements:
        """Those of some of the items."""
        chosen = list(places)
        return TimedJudgements(
            log_odds=self.log_odds[chosen],
            num_tokens=self.num_tokens[chosen],
            seconds=self.seconds[chosen],
            price=None if self.price is None else self.price[chosen],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberingModel:
    """An action model that is asked once for each sample at each step.

    A step is known by its id, history and tools. Sample i is the same however many are drawn, so
    that fewer samples than are known are the first of those. A proposal comes with the tokens and
    the seconds of the time when it was made.
    """

    model: ActionModel
    _known: dict[tuple[str, Sampling], list[Proposal]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def model_id(self) -> str:
        """That of the model."""
        return self.model.model_id

    @property
    def size(self) -> ModelSize | None:
        """That of the model."""
        return self.model.size

    def propose(self, steps: Sequence[Step], sampling: Sampling) -> list[list[Proposal]]:
        """As the model does; it is asked at the steps where too few samples are known."""
        draw = replace(sampling, num_samples=1)  # that they are few does not make them others
        keys = [(_step_key(step), draw) for step in steps]
        missing = [
            place
            for place, key in enumerate(keys)
            if len(self._known.get(key, ())) < sampling.num_samples
        ]
        if missing:
            answers = self.model.propose([steps[place] for place in missing], sampling)
            for place, samples in zip(missing, answers, strict=True):
                known = self._known.setdefault(keys[place], [])
                known += samples[len(known) :]
        return [self._known[key][: sampling.num_samples] for key in keys]


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberingVerifier:
    """A classifier that judges each action at each step once; asked through `judge_timed`.

    Classifiers see the prompt and the action alone. The other verifiers look at siblings, at a
    log-probability, or (the strong judge) at an action of their own.
    """

    verifier: ClassifierVerifier
    _known: dict[tuple[str, str], tuple[float, int, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """(log-odds, tokens, seconds) by step and text of the action."""

    @property
    def verifier_id(self) -> str:
        """That of the verifier."""
        return self.verifier.verifier_id

    @property
    def size(self) -> ModelSize:
        """That of the verifier."""
        return self.verifier.size

    def judge_timed(self, items: Sequence[Item]) -> TimedJudgements:
        """As the verifier does; it is asked about the items that are new.

        Args:
            items: With distinct parsable actions at each step, as `distinct_items` leaves them.
        """
        keys = [_item_key(item) for item in items]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        if new:
            judged = judge_timed(self.verifier, [items[place] for place in new])
            answers = zip(
                judged.log_odds.tolist(),
                judged.num_tokens.tolist(),
                judged.seconds.tolist(),
                strict=True,
            )
            self._known.update(zip((keys[place] for place in new), answers, strict=True))
        log_odds, num_tokens, seconds = zip(*(self._known[key] for key in keys), strict=True)
        return TimedJudgements(
            log_odds=np.array(log_odds, dtype=np.float64),
            num_tokens=np.array(num_tokens, dtype=np.int64),
            seconds=np.array(seconds, dtype=np.float64),
        )


LiveVerifier = Verifier | RememberingVerifier


def judge_timed(verifier: LiveVerifier, items: Sequence[Item]) -> TimedJudgements:
    """Judgements of at least one item, its wall time shared evenly among all."""
    if isinstance(verifier, RememberingVerifier):
        return verifier.judge_timed(items)
    started = time.perf_counter()
    judged = verifier.judge(items)
    seconds = np.full(len(items), (time.perf_counter() - started) / len(items))
    return TimedJudgements(
        log_odds=judged.log_odds,
        num_tokens=judged.num_tokens + judged.num_cached_tokens,
        seconds=seconds if judged.seconds is None else judged.seconds,
        price=judged.price,
    )


def _step_key(step: Step) -> str:
    # Not canonical JSON: a prompt follows the order of arguments.
    return content_hash(repr((step.step_id, step.history, step.tools)))


def _item_key(item: Item) -> tuple[str, str]:
    assert item.proposal.action is not None  # as distinct_items has left it
    return _step_key(item.step), action_text(item.proposal.action)
