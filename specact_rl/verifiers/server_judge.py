"""A server's model as judge: how much likelier it answers yes than no.

Asked in words, with the conversation as data in one message, so that no chat template stands in the
way of a question after a tool's result.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specact_rl.actions.canonical import action_hash
from specact_rl.actions.serialise import shown_text
from specact_rl.errors import ServerError
from specact_rl.models.server import Likely, ModelServer, Refusal, Reply, Request
from specact_rl.rendering import JUDGE_QUESTION, judge_messages, shown_messages
from specact_rl.store import content_hash
from specact_rl.types import Step
from specact_rl.verifiers.base import Item, Judgements, Verifier

logger = logging.getLogger(__name__)

_NUM_LISTED = 20
"""Likeliest first tokens that are asked for: as many as the hosted API gives and vLLM does."""
_LEAST = 1e-9
"""Probability left for what is not listed, where rounding leaves none."""
_NEVER = -1000.0
"""Log-probabilities below are no numbers: servers write -9999 where they mean minus infinity."""
_ENOUGH = 8
"""Answers none of which is yes or no, which tell of a model that does not do as it is asked."""
_AT_ONCE = (
    "A judge must answer at once: switch thinking off when you start the server, or take another "
    "model"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJudge(ModelServer):
    """A model of a server that says of a proposal whether it is right, yes or no.

    Log-odds are log p(yes) - log p(no) of the first token, over all its spellings of the two. Of a
    word that is not among the listed tokens, the most that is left for it is taken.
    """

    @property
    def verifier_id(self) -> str:
        """Server, model, and hash of the question."""
        return f"judge-{self.model_id}-{content_hash(JUDGE_QUESTION)[:8]}"

    @property
    def origin(self) -> dict[str, Any]:
        """As of a model that proposes."""
        return self.server_origin

    @property
    def _where(self) -> str:
        return f"{self.base_url}, model {self.model_name!r}"

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of each item; equal actions at a step are asked about once.

        What could not be parsed is not asked about. NaN also where the model begins with neither
        word, or where the server refuses and `unanswered` allows it.

        Raises:
            ServerError: As `ask`; the server gives no log-probabilities or no token counts, which a
                judge needs; or its model says neither yes nor no.
        """
        asked: dict[tuple[str, str], int] = {}
        requests: list[Request] = []
        for place, item in enumerate(items):
            shown = _shown(item)
            key = _key(item, shown)
            if shown is not None and key not in asked:
                asked[key] = place  # who is there first pays
                requests.append(
                    Request(body=self._body(item.step, shown), step_id=item.step.step_id)
                )
        log_odds, seconds, price = np.full((3, len(items)), np.nan)
        seconds[:], price[:] = 0.0, 0.0
        num_tokens, num_cached = np.zeros((2, len(items)), dtype=np.int64)
        first = list(asked.values())
        strange: list[str] = []

        def take(number: int, reply: Reply | Refusal) -> bool:
            place = first[number]
            if isinstance(reply, Refusal):
                if self.unanswered == "stop":
                    raise reply
                logger.warning("%s", reply)
                return False
            prompt, cached, written = self._counts(reply, items[place].step)
            listed = self._listed(reply, items[place].step)
            found = yes_less_no(listed)
            if found is None:
                strange.append(listed[0].token)
            else:
                log_odds[place] = found
            num_tokens[place], num_cached[place] = prompt - cached + written, cached
            dollars = self.dollars(reply.answer.usage)
            price[place] = np.nan if dollars is None else dollars
            seconds[place] = reply.seconds
            return found is not None  # else ask again: the server may have been set right

        self.ask(requests, take)
        self._check_words(strange, len(requests))
        for place, item in enumerate(items):
            log_odds[place] = log_odds[asked.get(_key(item, _shown(item)), place)]
        return Judgements(
            log_odds=log_odds,
            num_tokens=num_tokens,
            num_cached_tokens=num_cached,
            seconds=seconds,
            price=price,
        )

    def failure(self, step: Step) -> str | None:
        """Why the model cannot judge, found by one question at a step; None: it can.

        Raises:
            ServerError: The server does not answer.
            ConfigError: As `ask`.
        """
        found: list[str] = []

        def take(_: int, reply: Reply | Refusal) -> bool:
            try:
                if isinstance(reply, Refusal):
                    raise reply
                self._counts(reply, step)
                listed = self._listed(reply, step)
            except ServerError as error:
                found.append(str(error))
            else:
                if yes_less_no(listed) is None:
                    found.append(f"{self._where} begins with {listed[0].token!r}. {_AT_ONCE}")
            return not found

        self.ask([Request(body=self._body(step, "Done."), step_id=step.step_id)], take)
        return found[0] if found else None

    def _body(self, step: Step, shown: str) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "messages": judge_messages(step, shown),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": _NUM_LISTED,
        }

    def _listed(self, reply: Reply, step: Step) -> list[Likely]:
        tokens = reply.answer.choices[0].tokens
        if not tokens or not tokens[0].top_logprobs:
            raise ServerError(
                f"{self.where(step.step_id)}: the verifier {self.verifier_id} needs the "
                "log-probabilities of yes and no (top_logprobs), and the server gave none. Start "
                "it so that it gives them, take another server, or a verifier that needs none"
            )
        return sorted(tokens[0].top_logprobs, key=lambda token: -token.logprob)

    def _counts(self, reply: Reply, step: Step) -> tuple[int, int, int]:
        if reply.answer.usage is None:
            raise ServerError(
                f"{self.where(step.step_id)}: the verifier {self.verifier_id} needs the "
                "tokens of its answers (usage), which are part of what it costs, and the server "
                "gave none; take another server"
            )
        return reply.answer.usage.counts

    def _check_words(self, strange: Sequence[str], num_asked: int) -> None:
        if not strange:
            return
        told = (
            f"{self._where}: {len(strange)} of {num_asked} answers begin with neither yes nor no, "
            f"{strange[0]!r} first"
        )
        if len(strange) == num_asked >= _ENOUGH:
            raise ServerError(f"{told}. {_AT_ONCE}")
        logger.warning("%s; they have no score", told)


def keeping_answers(verifier: Verifier, path: Path) -> Verifier:
    """The verifier; a server's answers are kept, in the file where in none yet."""
    if isinstance(verifier, ServerJudge) and verifier.kept is None:
        return verifier.keeping(path)
    return verifier


def yes_less_no(listed: Sequence[Likely]) -> float | None:
    """Log p(yes) - log p(no); None where neither is listed.

    Args:
        listed: The likeliest tokens, in any order.
    """
    listed = [token for token in listed if token.logprob > _NEVER]
    sums = {word: _log_sum(t.logprob for t in listed if _word(t) == word) for word in ("yes", "no")}
    if all(math.isinf(value) for value in sums.values()):
        return None
    # A word that is not listed is no likelier than the least that is, and than all the rest.
    rest = 1.0 - math.exp(_log_sum(token.logprob for token in listed))
    most = min(*(token.logprob for token in listed), math.log(max(rest, _LEAST)))
    yes, no = (most if math.isinf(sums[word]) else sums[word] for word in ("yes", "no"))
    return yes - no


def _word(token: Likely) -> str:
    """The token without case, and without the marks of space that tokenizers put before words."""
    return token.token.strip(" \n\t\u0120\u2581\"'*.").lower()


def _log_sum(values: Any) -> float:
    return float(np.logaddexp.reduce([*values], initial=-np.inf))


def _shown(item: Item) -> str | None:
    """What is judged, as text; None where nothing could be parsed."""
    if item.response is not None:
        return shown_messages(item.response)
    if item.proposal.action is not None:
        return shown_text(item.proposal.action)
    return "\n".join(shown_text(action) for action in item.proposal.actions) or None


def _key(item: Item, shown: str | None) -> tuple[str, str]:
    """Equal where the same is judged, however it is written."""
    action = item.proposal.action if item.response is None else None
    what = action_hash(action, item.step.tools) if action is not None else content_hash(shown)
    return item.step.step_id, what
