"""What several subcommands have in common: exit codes, arguments, and what they stand for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specact_rl.errors import ConfigError

if TYPE_CHECKING:
    from specact_rl.metrics.cost import TokenPrice
    from specact_rl.models.chat_client import ChatModel
    from specact_rl.models.language_model import Proposer
    from specact_rl.models.vllm_engine import VllmModel
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
    _add_asking_arguments(server)
    server.add_argument(
        "--logprobs",
        action="store_true",
        default=None,
        help="ask for log-probabilities, which the verifier proposer_logprob needs; a server that "
        "gives none is refused",
    )
    server.add_argument(
        "--price-per-million",
        metavar="IN,OUT[,CACHED]",
        help="US dollars per million prompt, completion and cached prompt tokens; fills in the "
        "column price (cached: default as IN)",
    )


def _add_asking_arguments(server: argparse._ActionsContainer) -> None:
    """How any server is asked."""
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
        "--unanswered",
        choices=["stop", "unparsable"],
        help="what becomes of a step at which the server always answers 400, 413, 422 or 500, say "
        "because its history is too long: the run ends, or the proposal is unparsable, with that "
        "as the reason (default: stop)",
    )


def add_role_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the servers that have roles in a run. None where they are not given."""
    server = parser.add_argument_group(
        "if a base is URL#NAME",
        "The model NAME of an OpenAI-compatible server has the role, cheap or strong, as it is: it "
        "is not trained, and the strong one judges, too. What it cannot give is left out. Keys "
        "come from environment variables and are written nowhere. Each server is asked once before "
        "anything is trained, all answers are kept, and none is asked for twice.",
    )
    for role in ROLES:
        server.add_argument(
            f"--{role}-api-key-env",
            metavar="VARIABLE",
            help=f"environment variable with the key of the {role} model's server (default: "
            "OPENAI_API_KEY)",
        )
        server.add_argument(
            f"--{role}-price-per-million",
            metavar="IN,OUT[,CACHED]",
            help="US dollars per million of its prompt, completion and cached prompt tokens "
            "(cached: default as IN)",
        )
    server.add_argument(
        "--logprobs",
        action="store_true",
        default=None,
        help="ask the cheap model's server for log-probabilities, which D-logp, D-lin+ and E-lin+ "
        "need; a server that gives none is refused",
    )
    _add_asking_arguments(server)


def add_vllm_arguments(parser: argparse.ArgumentParser) -> None:
    """Of an engine on a GPU. None where they are not given: `VllmModel` has the defaults."""
    vllm = parser.add_argument_group(
        "if --engine vllm",
        "The model is the folder of a checkpoint or of a LoRA adapter, in one process. The engine "
        "starts with the first proposal: the same command again with --verifier finds the "
        "proposals and leaves the GPU to the verifier.",
    )
    vllm.add_argument(
        "--max-model-len",
        type=int,
        metavar="TOKENS",
        help="longest history and proposal together; less of it needs less memory (default: the "
        "model's own)",
    )
    vllm.add_argument(
        "--gpu-memory",
        type=float,
        metavar="SHARE",
        help="of the GPU's memory that vLLM takes (default: 0.9)",
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
_VLLM_OPTIONS = ("max_model_len", "gpu_memory")


ROLES = ("cheap", "strong")
"""Of a run's models that may be behind servers."""


def role_options(bases: Mapping[str, str], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Fields of the servers that the user gave, by role, refusing those of no server.

    Args:
        bases: Of the run by role, checkpoints' and servers'.
        args: With the options.
    """
    from specact_rl.models.server import is_server

    found: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        own = [f"{role}_api_key_env", f"{role}_price_per_million"]
        own += ["logprobs"] if role == "cheap" else []
        if not is_server(bases[role]):
            _refuse_options(args, own, f"the {role} model starts from {bases[role]!r}")
            continue
        given = _given(args, (*own, *_SERVER_OPTIONS))
        found[role] = {name.removeprefix(f"{role}_"): value for name, value in given.items()}
    if not found:
        _refuse_options(args, _SERVER_OPTIONS, "no model of this run is behind one")
    return found


def role_arguments(args: argparse.Namespace) -> list[str]:
    """The options of `add_role_server_arguments` as they were given, for the report."""
    names = [f"{role}_{name}" for role in ROLES for name in ("api_key_env", "price_per_million")]
    given: list[str] = ["--logprobs"] if args.logprobs else []
    for name in (*names, *_SERVER_OPTIONS):
        value = getattr(args, name)
        given += [] if value is None else [_option(name), str(value)]
    return given


def longest_proposal(model: str | None) -> int:
    """Tokens that a proposal may have by default: a server's model may think first."""
    from specact_rl.models.chat_client import LONGEST_ANSWER
    from specact_rl.models.server import is_server

    return LONGEST_ANSWER if model is not None and is_server(model) else 48


def proposer_of(model: str, args: argparse.Namespace, judge: str | None = None) -> Proposer:
    """The server, or else the checkpoint, loaded; the arguments are those of `server_of`."""
    from specact_rl.models.language_model import LanguageModel

    return server_of(model, args, judge) or LanguageModel.load(Path(model))


def server_of(model: str, args: argparse.Namespace, judge: str | None = None) -> ChatModel | None:
    """The server that a proposer's name stands for; None, and no options of it, for a checkpoint.

    Args:
        model: Its name.
        args: With the options.
        judge: Name of the verifier, which may be a server with options that both have.
    """
    from specact_rl.models.chat_client import ChatModel
    from specact_rl.models.server import is_server

    both = () if judge is not None and is_server(judge) else _SERVER_OPTIONS
    if not is_server(model):
        _refuse_options(args, (*_MODEL_OPTIONS, *both), f"the model is the checkpoint {model!r}")
        return None
    return ChatModel.named(model, **_given(args, (*_MODEL_OPTIONS, *_SERVER_OPTIONS)))


def vllm_of(
    args: argparse.Namespace, server: ChatModel | None, num_processes: int
) -> VllmModel | None:
    """The checkpoint `--model` under vLLM; None, and no options of it, for another engine.

    Args:
        args: With the engine and the options.
        server: What `server_of` says of the model.
        num_processes: That came here.
    """
    if args.engine != "vllm":
        for name in _VLLM_OPTIONS:
            if getattr(args, name) is not None:
                raise ConfigError(
                    f"{_option(name)} is for --engine vllm, but the engine is {args.engine!r}; "
                    "name it, or leave the option out"
                )
        return None
    if server is not None:
        raise ConfigError(
            f"engine 'vllm' runs a checkpoint in this process, got the server {server.base_url}, "
            "which has an engine of its own; leave --engine out"
        )
    if num_processes > 1:
        raise ConfigError(
            f"engine 'vllm' batches by itself and must be one process, got {num_processes}; start "
            "it without torchrun or accelerate launch"
        )
    from specact_rl.models.vllm_engine import VllmModel

    return VllmModel.load(Path(args.model), **_given(args, _VLLM_OPTIONS))


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
