"""What several subcommands have in common: exit codes, arguments, and what they stand for."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from specact_rl.errors import ConfigError

if TYPE_CHECKING:
    from specact_rl.metrics.cost import TokenPrice
    from specact_rl.models.language_model import Proposer

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
        "if the model is a URL",
        "The key, where the server wants one, comes from an environment variable and is written "
        "nowhere. Each sample is one request. What was answered before a server failed is kept: "
        "the same command goes on from there. The server renders the prompts itself, so the "
        "manifest says parity: unverified; switch thinking off when you start the server.",
    )
    server.add_argument(
        "--model-name",
        metavar="NAME",
        help="model as the server calls it, needed; what it was started with, or listed at "
        "URL/models",
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


_SERVER_OPTIONS = (
    "model_name",
    "api_key_env",
    "concurrency",
    "timeout",
    "max_retries",
    "logprobs",
    "unanswered",
    "price_per_million",
)


def is_url(model: str) -> bool:
    """Whether a model is a server's address, and no folder."""
    return model.lower().startswith(("http://", "https://"))


def longest_proposal(model: str | None) -> int:
    """Tokens that a proposal may have by default: a server's model may think first."""
    return 1024 if model is not None and is_url(model) else 48


def proposer_of(model: str, args: argparse.Namespace) -> Proposer:
    """The checkpoint or the server, refusing options of the one for the other."""
    from specact_rl.models.chat_client import ChatModel
    from specact_rl.models.language_model import LanguageModel

    given = {name: getattr(args, name) for name in _SERVER_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    if not is_url(model):
        if given:
            option = "--" + next(iter(given)).replace("_", "-")
            raise ConfigError(
                f"{option} is for a server, but the model is the folder {model!r}; give the "
                "server's URL, such as http://localhost:8000/v1"
            )
        return LanguageModel.load(Path(model))
    if "price_per_million" in given:
        given["price"] = _token_price(given.pop("price_per_million"))
    return ChatModel(base_url=model, **({"model_name": ""} | given))


def _token_price(text: str) -> TokenPrice:
    from specact_rl.metrics.cost import TokenPrice

    try:
        prompt, completion, *rest = (float(part) for part in text.split(","))
        (cached,) = rest or (prompt,)
        return TokenPrice(prompt=prompt, cached=cached, completion=completion)
    except ValueError as error:
        raise ConfigError(
            f"--price-per-million must be two or three prices such as 0.5,1.5, got {text!r}"
        ) from error


def refuse_existing(out: Path | None, option: str = "--out") -> None:
    """Refuse to write over a file; None writes none."""
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists and is not overwritten; choose another {option}")
