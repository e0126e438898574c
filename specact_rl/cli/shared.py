"""What several subcommands have in common: exit codes, arguments, and what they stand for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specact_rl.errors import ConfigError

if TYPE_CHECKING:
    from specact_rl.metrics.cost import TokenPrice
    from specact_rl.models.language_model import Proposer
    from specact_rl.verifiers.server_judge import ServerJudge

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

logger = logging.getLogger("specact_rl.cli")

EXIT_OK = 0
EXIT_FINDINGS = 1
EXIT_MISUSE = 2
EXIT_INTERRUPTED = 130


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Which log, and how it is read."""
    parser.add_argument("log", type=Path, metavar="PATH", help="file or folder of one format")
    parser.add_argument(
        "--importer",
        metavar="NAME",
        help="name of a format, a mapping.yaml, or FILE.py:FUNCTION (default: look at the log)",
    )


def add_pair_arguments(parser: argparse._ActionsContainer) -> None:
    """Which two of a log's models."""
    parser.add_argument(
        "--cheap",
        metavar="MODEL",
        help="name of the cheap model in the log, or a part of it that no other has; M#2 is the "
        "second trial of M",
    )
    parser.add_argument("--strong", metavar="MODEL", help="likewise, the model to fall back on")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Of a server. None where they are not given: `ChatModel` has the defaults."""
    server = parser.add_argument_group(
        "if a model is a URL",
        "URL#NAME is the model NAME of the server, in every place. The key, where the server wants "
        "one, comes from an environment variable and is written nowhere. Each sample is one "
        "request. What was answered before a server failed is kept: the same command goes on from "
        "there. The server renders the prompts and counts the tokens itself, so the manifest says "
        "parity: unverified; switch thinking off when you start the server.",
    )
    server.add_argument(
        "--model-name",
        metavar="NAME",
        help="model as the server calls it, if the URL does not say it behind #; what the server "
        "was started with, or listed at URL/models",
    )
    server.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable whose value, if it has one, is sent to the server as the key "
        "(default: OPENAI_API_KEY)",
    )
    server.add_argument(
        "--concurrency", type=int, metavar="N", help="requests at a time (default: 8)"
    )
    server.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="longest wait for an answer (default: 120)"
    )
    server.add_argument(
        "--max-retries",
        type=int,
        metavar="N",
        help="further tries after 429, 5xx, a timeout, a cut connection or an unreadable answer "
        "(default: 6, which waits about half a minute in all)",
    )
    server.add_argument(
        "--logprobs",
        action="store_true",
        default=None,
        help="ask for log-probabilities, which the verifier proposer_logprob needs; a server that "
        "gives none is refused",
    )
    server.add_argument(
        "--unanswered",
        choices=["stop", "unparsable"],
        help="what becomes of a step at which the server always answers 400, 413, 422 or 500, say "
        "because its history is too long: the run ends, or the proposal is unparsable, with that "
        "as the reason (default: stop)",
    )
    server.add_argument(
        "--price-per-million",
        metavar="IN,OUT[,CACHED]",
        help="US dollars per million prompt, completion and cached prompt tokens; fills in the "
        "column price (cached: default as IN)",
    )


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Of a server that judges, beside those of `add_server_arguments`."""
    judge = parser.add_argument_group(
        "if the verifier is a URL#NAME",
        "The server is asked yes or no about each proposal and must give top_logprobs; its prompt, "
        "which every question repeats, is counted by its own tokenizer.",
    )
    judge.add_argument(
        "--verifier-api-key-env",
        metavar="VARIABLE",
        help="as --api-key-env, of the verifier's server (default: OPENAI_API_KEY)",
    )
    judge.add_argument(
        "--verifier-price-per-million",
        metavar="IN,OUT[,CACHED]",
        help="as --price-per-million, of the verifier's server",
    )


_MODEL_OPTIONS = ("model_name", "api_key_env", "logprobs", "price_per_million")
_JUDGE_OPTIONS = ("verifier_api_key_env", "verifier_price_per_million")
_SERVER_OPTIONS = ("concurrency", "timeout", "max_retries", "unanswered")
"""Of every server of the command."""


def longest_proposal(model: str | None) -> int:
    """Tokens that a proposal may have by default: a server's model may think first."""
    from specact_rl.models.server import is_server

    return 1024 if model is not None and is_server(model) else 48


def proposer_of(model: str, args: argparse.Namespace, judge: str | None = None) -> Proposer:
    """The checkpoint or the server, refusing options of the one for the other.

    Args:
        model: Its name.
        args: With the options.
        judge: Name of the verifier, which may be a server with options that both have.
    """
    from specact_rl.models.chat_client import ChatModel
    from specact_rl.models.language_model import LanguageModel
    from specact_rl.models.server import is_server

    both = () if judge is not None and is_server(judge) else _SERVER_OPTIONS
    if not is_server(model):
        _refuse_options(args, (*_MODEL_OPTIONS, *both), f"the model is the checkpoint {model!r}")
        return LanguageModel.load(model)
    return ChatModel.named(model, **_given(args, (*_MODEL_OPTIONS, *_SERVER_OPTIONS)))


def judge_of(name: str | None, args: argparse.Namespace) -> ServerJudge | None:
    """The server that a verifier's name stands for; None, and no options of it, where for none."""
    from specact_rl.models.server import is_server

    if name is None or not is_server(name):
        found = "there is no --verifier" if name is None else f"the verifier is {name!r}"
        _refuse_options(args, _JUDGE_OPTIONS, found)
        return None
    from specact_rl.verifiers.server_judge import ServerJudge

    given = _given(args, (*_JUDGE_OPTIONS, *_SERVER_OPTIONS))
    return ServerJudge.named(name, **{k.removeprefix("verifier_"): v for k, v in given.items()})


def _given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Fields of a server that the user gave, by the names of the options but for the price."""
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    for name in [name for name in given if name.endswith("price_per_million")]:
        given["price"] = _token_price(name, given.pop(name))
    return given


def _refuse_options(args: argparse.Namespace, names: Sequence[str], found: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ConfigError(
                f"{_option(name)} is for a server, but {found}; give the server's URL, such as "
                "http://localhost:8000/v1"
            )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _token_price(name: str, text: str) -> TokenPrice:
    from specact_rl.metrics.cost import TokenPrice

    try:
        prompt, completion, *rest = (float(part) for part in text.split(","))
        (cached,) = rest or (prompt,)
        return TokenPrice(prompt=prompt, cached=cached, completion=completion)
    except ValueError as error:
        raise ConfigError(
            f"{_option(name)} must be two or three prices such as 0.5,1.5, got {text!r}"
        ) from error


def refuse_existing(out: Path | None, option: str = "--out") -> None:
    """Refuse to write over a file; None writes none."""
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists and is not overwritten; choose another {option}")
