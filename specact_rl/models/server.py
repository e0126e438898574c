"""A model behind an OpenAI-compatible server, whatever it is asked for: requests out, answers in.

vLLM, SGLang, llama.cpp, `transformers serve`, a hosted API. Requests run side by side, are tried
again where that may help, and what was answered is kept. Knows neither proposals nor verifiers.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from specact_rl.actions.serialise import wire_text
from specact_rl.errors import ConfigError, ServerError
from specact_rl.metrics.cost import ModelSize, TokenPrice
from specact_rl.store import append_jsonl, content_hash, recovered_jsonl

if TYPE_CHECKING:  # an extra, and most of a second
    from openai import AsyncOpenAI

T = TypeVar("T")

logger = logging.getLogger(__name__)

Unanswered = Literal["stop", "unparsable"]
"""What becomes of a step that the server refuses or fails at each time it is asked."""

_REFUSALS = (400, 413, 422, 500)
"""Statuses that may be due to the one request: a history that is too long for the model, or a call
of the model's that the server cannot read, which `transformers serve` answers by 500."""

_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
"""Seconds before an unreadable answer is asked for again; `openai` waits as long by itself."""
_EXCERPT = 300
_NO_KEY = "none"
"""Sent where there is no key: the client refuses to send nothing, and local servers do not look."""


def is_server(name: str) -> bool:
    """Whether a model's name is a server's URL, and no folder."""
    return name.lower().startswith(("http://", "https://"))


class Refusal(ServerError):
    """The server will not, or cannot, answer at this step."""

    def __init__(self, message: str, reason: str) -> None:
        """Take note of the whole message, and of the server's reason alone."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a server is to be sent."""

    body: dict[str, Any]
    """Of a chat completion."""
    step_id: str
    """For errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    answer: Answer
    seconds: float
    """Of the request that was answered, without the tries and waits before it; requests run side
    by side, so that they add up to more than has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A reply in the file of `keeping`."""

    request: str
    """Content hash of the body."""
    answer: str
    """JSON text of an `Answer`."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServer:
    """A server, the model of it that is asked, and how.

    Tokens are those that its `usage` tells, counted by the server's tokenizer.
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
    unanswered: Unanswered = "stop"
    """stop ends the run with the error. unparsable makes a row without text, tokens or seconds of
    it, with the reason, where the status (400, 413, 422, 500) may be due to that step."""
    price: TokenPrice | None = None
    """Paid for the answer that came; None leaves it unknown. Tries whose answer was lost on the way
    may have been billed too, and are not in it."""
    kept: Path | None = None
    """See `keeping`."""
    _known: dict[str, Reply] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What is in the file of `keeping`, by content hash of the request, since it was read."""

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

    @classmethod
    def named(cls, name: str, **options: Any) -> Self:
        """The server of "URL#MODEL", which is what `model_id` says of it, too.

        Args:
            name: The URL alone where `model_name` is among the options.
            **options: Fields.

        Raises:
            ConfigError: No model, or two; or what no server can be asked with.
        """
        url, mark, model = name.partition("#")
        if mark and "model_name" in options:
            raise ConfigError(
                f"a server's model must be named once, got {model!r} behind # of its URL and "
                f"{options['model_name']!r}"
            )
        return cls(base_url=url, **({"model_name": model} | options))

    @property
    def server_origin(self) -> dict[str, Any]:
        """That nobody compared its prompts with ours, and what else its rows depend on."""
        return {
            "parity": "unverified",
            "unanswered": self.unanswered,
            "price": None if self.price is None else asdict(self.price),
        }

    @property
    def size(self) -> ModelSize | None:
        """What a forward pass costs: nobody says, so that FLOPs are not known."""
        return None

    def keeping(self, path: Path) -> Self:
        """The same model, which adds each answer to the file, and asks for none that is in it.

        A request is known by all that is sent, whoever sends it. What a server refused is asked
        for again. Prices may be others than those of the time.
        """
        return replace(self, kept=path)

    def ask(
        self, requests: Sequence[Request], take: Callable[[int, Reply | Refusal], bool]
    ) -> None:
        """Have all requests answered, those that are not kept side by side, equal ones once.

        Args:
            requests: What is asked.
            take: Called once for each with its place and what came, in any order; says whether that
                may be handed out again, and may raise an error, such as the refusal that it was
                handed.

        Raises:
            ServerError: A request failed for good, or an answer cannot be kept. Those under way
                were awaited, no other was begun, and what came is in the file of `keeping`.
            ConfigError: `openai` is not installed, or the key is none.
            Exception: What `take` raised, by itself, though others may have failed beside it.
        """
        self._recover()
        missing: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            key = content_hash(request.body)
            if key in self._known:
                take(place, self._known[key])
            else:
                missing.setdefault(key, []).append(place)
        if missing:
            _run(self._ask_all(requests, missing, take))

    def dollars(self, usage: Usage | None) -> float | None:
        """What an answer cost; None where that cannot be told."""
        if self.price is None or usage is None:
            return None
        return self.price.dollars(*usage.counts)

    def where(self, step_id: str) -> str:
        """Server, model and step, for errors."""
        return f"{self.base_url}, model {self.model_name!r}, step {step_id!r}"

    def _recover(self) -> None:
        if self.kept is not None and not self._known:
            for row in recovered_jsonl(self.kept, _Kept):
                answer = Answer.model_validate_json(row.answer)
                self._known[row.request] = Reply(answer=answer, seconds=row.seconds)

    def _keep(self, key: str, reply: Reply) -> None:
        if self.kept is None:
            return
        text = reply.answer.model_dump_json(exclude_none=True)
        try:
            append_jsonl(self.kept, _Kept(request=key, answer=text, seconds=reply.seconds))
        except OSError as error:
            raise ServerError(
                f"{self.base_url}, model {self.model_name!r}: an answer cannot be kept in "
                f"{self.kept}: {error.strerror or error}. Make room there"
            ) from error
        self._known[key] = reply

    async def _ask_all(
        self,
        requests: Sequence[Request],
        missing: Mapping[str, Sequence[int]],
        take: Callable[[int, Reply | Refusal], bool],
    ) -> None:
        """Ask for the answers that are missing; each is kept and handed on as it comes."""
        waiting = iter(missing.items())
        failures: list[Exception] = []
        async with self._client() as client:

            async def work() -> None:
                for key, places in waiting:  # the workers share it: each takes the next
                    try:
                        reply = await self._reply(client, requests[places[0]])
                        lasts = all([take(place, reply) for place in places])
                        if lasts and isinstance(reply, Reply):
                            self._keep(key, reply)
                    except Exception as error:  # of any kind: a task group would wrap it
                        failures.append(error)
                    if failures:
                        return

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(missing))):
                    group.create_task(work())
        for failure in failures:
            if not isinstance(failure, ServerError):  # a fault of ours, with its own traceback
                raise failure
        if failures:
            kept = ". What was answered is kept: the same again goes on from there"
            raise ServerError(f"{failures[0]}{kept if self.kept is not None else ''}")

    async def _reply(self, client: AsyncOpenAI, request: Request) -> Reply | Refusal:
        try:
            return await self._answer(client, request.body, self.where(request.step_id))
        except Refusal as refusal:
            return refusal

    async def _answer(self, client: AsyncOpenAI, body: dict[str, Any], where: str) -> Reply:
        """The server's answer and the seconds that it took."""
        for attempt in range(self.max_retries + 1):
            raw = await self._send(client, body, where)
            try:
                answer = Answer.model_validate_json(raw.content)
                return Reply(answer=answer, seconds=raw.elapsed.total_seconds())
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
                raise Refusal(message, reason) from None
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


class Likely(BaseModel):
    """A token, and how likely the model held it."""

    token: str = ""
    logprob: float = Field(allow_inf_nan=False)


class Token(Likely):
    """A token of the answer."""

    top_logprobs: list[Likely] = []
    """The likeliest at its place, as many as were asked for."""


class _Logprobs(BaseModel):
    content: list[Token] | None = None


class Choice(BaseModel):
    """The one that was asked for."""

    message: _Message
    finish_reason: str | None = None
    """"length" where the token limit came first."""
    logprobs: _Logprobs | None = None

    @property
    def tokens(self) -> list[Token]:
        """Those it is made of; [] where the server gives no log-probabilities."""
        content = self.logprobs.content if self.logprobs is not None else None
        return content or []


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    """Tokens by the server's own count."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def counts(self) -> tuple[int, int, int]:
        """Prompt tokens, those of them that were cached as far as is known, completion tokens."""
        details = self.prompt_tokens_details
        cached = details.cached_tokens if details is not None else None
        return self.prompt_tokens, cached or 0, self.completion_tokens


class Answer(BaseModel):
    """A chat completion."""

    choices: list[Choice] = Field(min_length=1)
    usage: Usage | None = None
