"""A model of an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, an API.

The server renders the prompts, so that nobody here can hold them against those of training: what it
proposes is marked `parity: unverified`. Knows no labels.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from specact_rl.actions.serialise import wire_messages, wire_text
from specact_rl.errors import ConfigError, ServerError
from specact_rl.metrics.cost import TokenPrice
from specact_rl.models.language_model import Sampling, unlabelled_proposal
from specact_rl.rendering import tool_dicts
from specact_rl.store import append_jsonl, recovered_jsonl
from specact_rl.types import Proposal, Rollout, Step, proposal_id

if TYPE_CHECKING:  # an extra, and most of a second
    from openai import AsyncOpenAI

T = TypeVar("T")

logger = logging.getLogger(__name__)

Unanswered = Literal["stop", "unparsable"]
"""What becomes of a step that the server refuses or fails at each time it is asked."""

_REFUSALS = (400, 413, 422, 500)
"""Statuses that may be due to the one request: a history that is too long for the model, or a call
of the model's that the server cannot read, which `transformers serve` answers by 500."""
_NO_ANSWER = "no answer: "
"""How the `parse_error` of a proposal begins that the server refused or failed at."""

_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
"""Seconds before an unreadable answer is asked for again; `openai` waits as long by itself."""
_EXCERPT = 300
_NO_KEY = "none"
"""Sent where there is no key: the client refuses to send nothing, and local servers do not look."""


def is_unanswered(proposal: Proposal) -> bool:
    """Whether the row stands for an answer that a server refused or failed to give."""
    return proposal.parse_error is not None and proposal.parse_error.startswith(_NO_ANSWER)


class _Refusal(ServerError):
    """The server will not, or cannot, answer at this step."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    """A model of a server, asked for one action at a time.

    Tokens are those that the server's `usage` tells: None where it tells nothing, cached ones 0
    where it does not say. `seconds` is the time of the request that was answered, without the tries
    and waits before it; requests run side by side, so that they add up to more than has passed.
    """

    base_url: str
    """Up to and including the version, such as "http://localhost:8000/v1"; holds no password."""
    model_name: str
    """As the server calls it."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. It is read when the server is asked, and the key
    is stored nowhere; where it is unset or empty no key is sent."""
    concurrency: int = 8
    """Requests under way at a time."""
    timeout: float = 120.0
    """Seconds that the server may take for an answer."""
    max_retries: int = 6
    """Further tries after 408, 409, 429, 5xx, no answer in time, a broken connection or an
    unreadable answer: after 0.5 s, then twice as long each time up to 8 s, or as Retry-After says
    (up to 2 minutes)."""
    logprobs: bool = False
    """Ask for log-probabilities, and refuse a server that gives none. They are its sum over the
    tokens it lists; whether the stop token is among them is the server's affair."""
    unanswered: Unanswered = "stop"
    """stop ends the run with the error. unparsable makes a row without text, tokens or seconds of
    it, with the reason, where the status (400, 413, 422, 500) may be due to that step."""
    price: TokenPrice | None = None
    """Paid for the answer that came; None leaves it unknown. Tries whose answer was lost on the way
    may have been billed too, and are not in it."""
    kept: Path | None = None
    """See `keeping`."""

    def __post_init__(self) -> None:
        """Refuse what no server can be asked with."""
        _check_url(self.base_url)
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        if not self.model_name:
            raise ConfigError(
                f"the server at {self.base_url} must be asked for a model by name, got none; give "
                f"the name that it was started with, or one that {self.base_url}/models lists"
            )
        if self.concurrency < 1 or not self.timeout > 0.0 or self.max_retries < 0:
            raise ConfigError(
                "concurrency must be at least 1, timeout above 0 and max_retries at least 0, got "
                f"{self.concurrency!r}, {self.timeout!r} and {self.max_retries!r}"
            )
        if self.unanswered not in get_args(Unanswered):
            raise ConfigError(
                f"unanswered must be one of {get_args(Unanswered)!r}, got {self.unanswered!r}"
            )

    @property
    def model_id(self) -> str:
        """URL and name; what weights the server has under that name it does not say."""
        return f"{self.base_url}#{self.model_name}"

    @property
    def origin(self) -> dict[str, Any]:
        """That nobody compared its prompts with ours, and what else its rows depend on."""
        return {
            "parity": "unverified",
            "logprobs": self.logprobs,
            "unanswered": self.unanswered,
            "price": None if self.price is None else asdict(self.price),
        }

    def keeping(self, path: Path) -> ChatModel:
        """The same model, which adds each answer to the file, and asks for none that is in it.

        What a server refused is asked for again. Prices may be others than those of the time.
        """
        return replace(self, kept=path)

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
            ServerError: A request failed for good. Those under way were awaited, no other was
                begun, and what came is in the file of `keeping`.
            ConfigError: `openai` is not installed, or the key is none.
        """
        requests = [(step, k) for step in steps for k in range(sampling.num_samples)]
        known = self._kept_answers()
        answers = {
            place: known[name]
            for place, (step, k) in enumerate(requests)
            if (name := proposal_id(step.step_id, self.model_id, "generate", k)) in known
        }
        if len(answers) < len(requests):
            _run(self._ask_all(requests, sampling, answers))
        each = iter(answers[place] for place in range(len(requests)))
        return [[next(each) for _ in range(sampling.num_samples)] for _ in steps]

    def _kept_answers(self) -> dict[str, Proposal]:
        """What is in the file, by proposal id, with what it costs now."""
        if self.kept is None:
            return {}
        return {
            p.proposal_id: replace(
                p,
                price=self._price(
                    p.num_prompt_tokens, p.num_cached_tokens, p.num_completion_tokens
                ),
            )
            for p in recovered_jsonl(self.kept, Proposal)
            if p.logprob is not None or not self.logprobs
        }

    async def _ask_all(
        self,
        requests: Sequence[tuple[Step, int]],
        sampling: Sampling,
        answers: dict[int, Proposal],
    ) -> None:
        """Ask for the answers that are missing; each goes to its place, and to the file."""
        waiting = iter([place for place in range(len(requests)) if place not in answers])
        failures: list[ServerError] = []
        async with self._client() as client:

            async def work() -> None:
                for place in waiting:  # the workers share it: each takes the next
                    try:
                        proposal = await self._ask(client, *requests[place], sampling)
                    except ServerError as error:
                        failures.append(error)
                    else:
                        answers[place] = proposal
                        if self.kept is not None and not is_unanswered(proposal):
                            append_jsonl(self.kept, proposal)
                    if failures:
                        return

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(requests))):
                    group.create_task(work())
        if failures:
            kept = ". What was answered is kept: the same again goes on from there"
            raise ServerError(f"{failures[0]}{kept if self.kept is not None else ''}")

    async def _ask(
        self, client: AsyncOpenAI, step: Step, sample: int, sampling: Sampling
    ) -> Proposal:
        where = f"{self.base_url}, model {self.model_name!r}, step {step.step_id!r}"
        try:
            answer, seconds = await self._answer(client, self._body(step, sample, sampling), where)
        except _Refusal as refusal:
            if self.unanswered == "stop":
                raise
            logger.warning("%s", refusal)
            return self._unanswered(step, sample, refusal.reason)
        choice, usage = answer.choices[0], answer.usage
        counts = (None, 0, None) if usage is None else usage.counts
        return unlabelled_proposal(
            self.model_id,
            step,
            sample,
            text=choice.message.text,
            finished=choice.finish_reason != "length",
            logprob=self._logprob(choice, where),
            num_prompt_tokens=counts[0],
            num_cached_tokens=counts[1],
            num_completion_tokens=counts[2],
            seconds=seconds,
            price=self._price(*counts),
        )

    def _price(
        self, num_prompt: int | None, num_cached: int, num_completion: int | None
    ) -> float | None:
        if self.price is None or num_prompt is None or num_completion is None:
            return None
        return self.price.dollars(num_prompt, num_cached, num_completion)

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
            "max_tokens": sampling.max_new_tokens,
            "temperature": 0.0,
        }
        tools = tool_dicts(step.tools)
        if tools:  # an empty list is refused
            body["tools"] = tools
        if sample > 0:
            body["temperature"] = sampling.temperature
            body["seed"] = _request_seed(sampling.seed, step.step_id, sample)
        if self.logprobs:
            body["logprobs"] = True
        return body

    async def _answer(
        self, client: AsyncOpenAI, body: dict[str, Any], where: str
    ) -> tuple[_Answer, float]:
        """The server's answer and the seconds that it took."""
        for attempt in range(self.max_retries + 1):
            raw = await self._send(client, body, where)
            try:
                return _Answer.model_validate_json(raw.content), raw.elapsed.total_seconds()
            except ValidationError as error:
                problem = _problem(error)
                logger.warning("%s: unreadable answer: %s", where, problem)
            if attempt < self.max_retries:
                await asyncio.sleep(min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT))
        raise ServerError(
            f"{where}: the answer must be a chat completion, got {self._excerpt(raw.text)} "
            f"({problem}) {self.max_retries + 1} times. Give the base URL of an OpenAI-compatible "
            "server"
        )

    async def _send(self, client: AsyncOpenAI, body: dict[str, Any], where: str) -> Any:
        """The raw response, of any status below 400."""
        import openai

        tries = f"in up to {self.max_retries + 1} tries"
        # Without their causes, which hold the request and with it the key.
        try:
            return await client.chat.completions.with_raw_response.create(**body)
        except openai.APIStatusError as error:
            status = error.status_code
            reason = f"HTTP {status}: {self._excerpt(error.response.text)}"
            message = f"{where}: {reason}. {self._advice(status, tries)}"
            if status in _REFUSALS:
                message += (
                    ". Where that is due to this step, a history that is too long or a call that "
                    "the server cannot read, --unanswered unparsable makes a row of it"
                )
                raise _Refusal(message, reason) from None
            raise ServerError(message) from None
        except openai.APITimeoutError:
            raise ServerError(
                f"{where}: no answer within {self.timeout:g} s {tries}. Is the server up? If it is "
                "slow, allow more time or fewer requests at once"
            ) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            told = self._excerpt(str(cause) or type(cause).__name__)
            raise ServerError(
                f"{where}: no connection that lasts until the answer {tries}: {told}. Is the "
                "server up?"
            ) from None

    def _advice(self, status: int, tries: str) -> str:
        if status in (401, 403):
            return f"Put the server's key into the environment variable {self.api_key_env}"
        if status == 404:
            return "Check the URL, which usually ends in /v1, and the model's name"
        if status in (408, 409, 429) or status >= 500:
            return f"So it was {tries}; see the server's log, or ask fewer at once"
        return "The server refuses this request; see what it says"

    def _logprob(self, choice: _Choice, where: str) -> float | None:
        if not self.logprobs:
            return None
        tokens = choice.logprobs.content if choice.logprobs is not None else None
        if not tokens:
            raise ServerError(
                f"{where}: log-probabilities were asked for and the server gave none. Start it so "
                "that it gives them, take another server, or do without, and without the "
                "verifiers that need them"
            )
        return sum(token.logprob for token in tokens)

    def _client(self) -> AsyncOpenAI:
        try:
            from openai import AsyncOpenAI, Timeout
        except ImportError as error:
            raise ConfigError(
                f"asking {self.base_url} needs the package openai; pip install 'specact_rl[server]'"
            ) from error
        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key() or _NO_KEY,
            timeout=Timeout(self.timeout, connect=min(_CONNECT_SECONDS, self.timeout)),
            max_retries=self.max_retries,
        )

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):  # else the error of the header would show it
            raise ConfigError(
                f"the environment variable {self.api_key_env} must hold a key of printable ASCII "
                "characters and holds others; set it again"
            )
        return key

    def _excerpt(self, text: str) -> str:
        """The beginning of what a server said, on one line; it may have said the key."""
        key = self._key()
        shown = " ".join((text.replace(key, "***") if key else text).split()) or "nothing"
        return shown if len(shown) <= _EXCERPT else shown[:_EXCERPT] + "…"


def _check_url(url: str) -> None:
    """Refuse what is no base URL, without showing what may be a secret in it."""
    try:
        parts = urlsplit(url)
        host, credentials = parts.hostname, "@" in parts.netloc
        known = parts.scheme in ("http", "https")
        parts.port  # noqa: B018 - raises
    except ValueError:
        raise ConfigError("the server's URL cannot be read; give http://HOST:PORT/v1") from None
    if credentials or parts.query:
        raise ConfigError(
            f"the URL of the server at {host!r} must hold no user, password or query, which would "
            "end up in logs; put the key into an environment variable"
        )
    if not known or not host or parts.fragment:
        raise ConfigError(f"the server's URL must be like http://HOST:PORT/v1, got {url!r}")


def _request_seed(seed: int, step_id: str, sample: int) -> int:
    """A seed that differs by step and sample, of 31 bits, which all servers take."""
    digest = hashlib.sha256(f"{seed}\0{step_id}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _run(work: Coroutine[Any, Any, T]) -> T:
    if not _in_a_loop():
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:  # a notebook has a loop, and no second one beside it
        return pool.submit(asyncio.run, work).result()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"


# What is read of a chat completion. Servers add fields of their own and leave out others.


class _Function(BaseModel):
    name: str
    arguments: str
    """JSON text, or what the model wrote in its place."""


class _Call(BaseModel):
    function: _Function


class _Message(BaseModel):
    content: str | None = None
    tool_calls: list[_Call] | None = None

    @property
    def text(self) -> str:
        """The message as a model writes it that has no parser of calls behind it."""
        if not self.tool_calls:
            return self.content or ""
        return "\n".join(wire_text(c.function.name, c.function.arguments) for c in self.tool_calls)


class _Token(BaseModel):
    logprob: float = Field(allow_inf_nan=False)


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    """"length" where the token limit came first."""
    logprobs: _Logprobs | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def counts(self) -> tuple[int, int, int]:
        """Prompt tokens, those of them that were cached as far as is known, completion tokens."""
        details = self.prompt_tokens_details
        cached = details.cached_tokens if details is not None else None
        return self.prompt_tokens, cached or 0, self.completion_tokens


class _Answer(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None
