"""Which verifier a user asks for: one to be fitted, or one that was fitted before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from specact_rl.errors import ConfigError
from specact_rl.metrics.values import BoolArray
from specact_rl.models.server import is_server
from specact_rl.store import file_hash, read_json
from specact_rl.user_code import named_in_file
from specact_rl.verifiers.base import Item, Verifier
from specact_rl.verifiers.encoder import EncoderVerifier
from specact_rl.verifiers.free import LinearVerifier
from specact_rl.verifiers.server_judge import ServerJudge
from specact_rl.verifiers.trees import TreesVerifier

Fit = Callable[[Sequence[Item], BoolArray], Verifier]
"""(items, acceptable of shape (n,)) -> a verifier fitted on them."""

CONFIG = "verifier.json"
_SAVED: dict[str, Callable[[Path], Verifier]] = {
    "trees": TreesVerifier.load,
    "encoder": EncoderVerifier.load,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierChoice:
    """What the user asked for. Exactly one of `fit` and `fitted`."""

    name: str
    """In words that a report can use."""
    identity: dict[str, Any]
    """What results depend on, as JSON values."""
    fit: Fit | None = None
    fitted: Verifier | None = None


def choose_verifier(asked: str | ServerJudge, *, seed: int) -> VerifierChoice:
    """The verifier of a name.

    Args:
        asked: "trees", "linear", "encoder:FOLDER_OR_HUB_ID", FILE.py:CLASS (whose `fit(items,
            acceptable, *, seed)` returns a verifier), a folder that a verifier was saved to, or
            "URL#MODEL" of a server that is asked yes or no; or that judge itself.
        seed: Of the fit.

    Raises:
        ConfigError: It names nothing of these.
    """
    if isinstance(asked, str) and is_server(asked):
        asked = ServerJudge.named(asked)
    if isinstance(asked, ServerJudge):
        return VerifierChoice(
            name=f"{asked.model_name} as judge",
            identity={"kind": "server", "verifier_id": asked.verifier_id, **asked.origin},
            fitted=asked,
        )
    built_in: dict[str, Fit] = {
        "trees": partial(TreesVerifier.fit, seed=seed),
        "linear": partial(LinearVerifier.fit, with_confidence=False, seed=seed),
    }
    if asked in built_in:
        return VerifierChoice(name=asked, identity={"kind": asked}, fit=built_in[asked])
    kind, _, encoder = asked.partition(":")
    if kind == "encoder" and encoder:
        fit = partial(EncoderVerifier.fit, encoder=encoder, seed=seed)
        files = {f.name: file_hash(f) for f in Path(encoder).glob("*") if f.is_file()}
        return VerifierChoice(name=asked, identity={"kind": asked, "files": files}, fit=fit)
    if (Path(asked) / CONFIG).is_file():
        return _saved(Path(asked))
    own = named_in_file(asked, "the verifier")
    if own is not None:
        found, path = own
        if not callable(getattr(found, "fit", None)):
            raise ConfigError(f"{asked} must have a fit(items, acceptable, *, seed), and has none")
        identity = {"kind": asked.rpartition(":")[2], "file": file_hash(path)}
        return VerifierChoice(name=asked, identity=identity, fit=partial(found.fit, seed=seed))
    raise ConfigError(
        "a verifier must be trees, linear, encoder:FOLDER_OR_HUB_ID, FILE.py:CLASS, URL#MODEL of a "
        f"server, or a folder with a {CONFIG}, got {asked!r}"
    )


def _saved(folder: Path) -> VerifierChoice:
    config = read_json(folder / CONFIG)
    kind = config.get("kind") if isinstance(config, dict) else None
    if kind not in _SAVED:
        raise ConfigError(f"{folder / CONFIG} must say a kind of {list(_SAVED)!r}, got {kind!r}")
    verifier = _SAVED[kind](folder)
    identity = {"kind": kind, "verifier_id": verifier.verifier_id}
    return VerifierChoice(name=str(folder), identity=identity, fitted=verifier)
