"""A model of an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, an API.

The server renders the prompts, so that nobody here can hold them against those of training: what it
proposes is marked `parity: unverified`. Knows no labels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from specact_rl.actions.serialise import wire_messages
from specact_rl.errors import ConfigError, ServerError
from specact_rl.models.language_model import Sampling, unlabelled_proposal
from specact_rl.models.server import Choice, ModelServer, Refusal, Reply, Request
from specact_rl.rendering import tool_dicts
from specact_rl.types import Proposal, Rollout, Step

logger = logging.getLogger(__name__)

LONGEST_ANSWER = 1024
"""Tokens that an answer may have where nothing else is said: a server's model may think first."""
_NO_ANSWER = "no answer: "
"""How the `parse_error` of a proposal begins that the server refused or failed at."""


def is_unanswered(proposal: Proposal) -> bool:
    """Whether the row stands for an answer that a server refused or failed to give."""
    return proposal.parse_error is not None and proposal.parse_error.startswith(_NO_ANSWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel(ModelServer):
    """A model of a server that is asked for actions, one at a time: to propose, or to fall back on.

    A proposal's tokens are None where the server tells nothing of them, cached ones 0 where it does
    not say.
    """

    logprobs: bool = False
    """Ask for log-probabilities, and refuse a server that gives none. They are its sum over the
    tokens it lists; whether the stop token is among them is the server's affair."""
    longest: int | None = None
    """Tokens that an answer may have, whatever the sampling says; None: as it says."""

    @property
    def origin(self) -> dict[str, Any]:
        """That nobody compared its prompts with ours, and what else its rows depend on."""
        longest = {} if self.longest is None else {"longest": self.longest}
        return self.server_origin | {"logprobs": self.logprobs} | longest

    def check(self, step: Step, sampling: Sampling) -> None:
        """See that the server answers at a step, with all that is asked for.

        Raises:
            ServerError: It does not, whatever `unanswered` says.
            ConfigError: As `propose`.
        """
        replace(self, unanswered="stop").propose([step], replace(sampling, num_samples=1))

    def propose_over(self, rollouts: Sequence[Rollout], sampling: Sampling) -> list[list[Proposal]]:
        """Proposals at each step of the rollouts; see `propose`."""
        return self.propose([s for rollout in rollouts for s in rollout.each_step()], sampling)

    def propose(self, steps: Sequence[Step], sampling: Sampling) -> list[list[Proposal]]:
        """Proposals at each step, unlabelled; one request for each, the first at temperature 0.

        A message of several calls is no action. Text beside a call is left out, as in logs.

        Args:
            steps: Where.
            sampling: How; each further sample has a seed of its own, which depends on the step.

        Raises:
            ServerError: As `ask`; or log-probabilities were asked for and do not come.
            ConfigError: As `ask`; or proposals must be distinct, which is not the server's way.
        """
        if sampling.distinct and sampling.num_samples > 1:
            raise ConfigError(
                f"{self.model_id} draws its samples one by one, so that they cannot be made "
                "distinct; leave that out, or take a checkpoint"
            )
        wanted = [(step, k) for step in steps for k in range(sampling.num_samples)]
        each = iter(self._asked_for(wanted, sampling))
        return [[next(each) for _ in range(sampling.num_samples)] for _ in steps]

    def last_samples(self, steps: Sequence[Step], sampling: Sampling) -> list[Proposal]:
        """The last of the proposals that `propose` would make at each step, and no other asked for.

        Raises:
            ServerError: As `propose`.
            ConfigError: As `ask`.
        """
        return self._asked_for([(step, sampling.num_samples - 1) for step in steps], sampling)

    def _asked_for(self, wanted: Sequence[tuple[Step, int]], sampling: Sampling) -> list[Proposal]:
        """The samples of these steps and numbers, in their order."""
        proposals: list[Proposal | None] = [None] * len(wanted)

        def take(place: int, reply: Reply | Refusal) -> bool:
            proposals[place] = self._proposal(*wanted[place], reply)
            return True

        self.ask(
            [
                Request(body=self._body(step, k, sampling), step_id=step.step_id)
                for step, k in wanted
            ],
            take,
        )
        return [proposal for proposal in proposals if proposal is not None]

    def _proposal(self, step: Step, sample: int, reply: Reply | Refusal) -> Proposal:
        if isinstance(reply, Refusal):
            if self.unanswered == "stop":
                raise reply
            logger.warning("%s", reply)
            return self._unanswered(step, sample, reply.reason)
        choice, usage = reply.answer.choices[0], reply.answer.usage
        counts = (None, 0, None) if usage is None else usage.counts
        return unlabelled_proposal(
            self.model_id,
            step,
            sample,
            text=choice.message.text,
            finished=choice.finish_reason != "length",
            logprob=self._logprob(choice, self.where(step.step_id)),
            num_prompt_tokens=counts[0],
            num_cached_tokens=counts[1],
            num_completion_tokens=counts[2],
            seconds=reply.seconds,
            price=self.dollars(usage),
        )

    def _unanswered(self, step: Step, sample: int, reason: str) -> Proposal:
        nothing = unlabelled_proposal(
            self.model_id,
            step,
            sample,
            text="",
            finished=True,
            logprob=None,
            num_prompt_tokens=None,
            num_cached_tokens=0,
            num_completion_tokens=None,
            seconds=None,
        )
        return replace(nothing, parse_error=f"{_NO_ANSWER}{reason}")

    def _body(self, step: Step, sample: int, sampling: Sampling) -> dict[str, Any]:
        """The request; nothing in it that a server might not know, but what was asked for."""
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": wire_messages(step.history),
            # Not max_completion_tokens, which fewer servers know. The models that want only that
            # take no temperature either.
            "max_tokens": self.longest or sampling.max_new_tokens,
            "temperature": 0.0,
        }
        tools = tool_dicts(step.tools)
        if tools:  # an empty list is refused
            body["tools"] = tools
        if sample > 0:
            body["temperature"] = sampling.temperature
            body["seed"] = request_seed(sampling.seed, step.step_id, sample)
        if self.logprobs:
            body["logprobs"] = True
        return body

    def _logprob(self, choice: Choice, where: str) -> float | None:
        if not self.logprobs:
            return None
        if not choice.tokens:
            raise ServerError(
                f"{where}: log-probabilities were asked for and the server gave none. Start it so "
                "that it gives them, take another server, or do without, and without the "
                "verifiers that need them"
            )
        return sum(token.logprob for token in choice.tokens)


def request_seed(seed: int, step_id: str, sample: int) -> int:
    """A seed that differs by step and sample, of 31 bits, which all servers take."""
    digest = hashlib.sha256(f"{seed}\0{step_id}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
