"""What a run measured of its models, written into their cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from specact_rl.models.cards import measured_card
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.servers import PROPOSERS
from specact_rl.store import atomic_write
from specact_rl.store.cards import CARD, table

_VERIFIERS = {"verifier": "classifier", "reward_model": "reward_model"}
"""By role, what the verifier is called in the results."""
_LEVELS = {
    "parsed": "can be read as an action",
    "type": "action type as the expert's",
    "tool": "tool as the expert's",
    "arguments": "arguments as the expert's",
    "acceptable": "acceptable",
}


def write_measured(results: Mapping[str, Any], folders: Folders) -> None:
    """Put what `results.json` says of each trained model into its card, each in one go.

    A server's model was not trained here and has none.
    """
    for role in (*PROPOSERS, *_VERIFIERS):
        path = folders.model(role) / CARD
        if not path.is_file():
            continue
        card = path.read_text(encoding="utf-8")
        text = measured_card(card, measured_text(results, role))
        if text == card:
            continue
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def measured_text(results: Mapping[str, Any], role: str) -> str:
    """A table of the role's metrics on the run's test steps, and what they are of."""
    rows = [
        (
            what,
            _shown(metric["value"]),
            f"[{_shown(metric['low'])}, {_shown(metric['high'])}]",
            f"{metric['n']:,} of {metric['num_clusters'] or '?'} tasks",
            metric["note"] or "",
        )
        for what, metric in _metrics(results["replay"], role)
    ]
    meta = results["meta"]
    return (
        f"{table(('on test steps', 'value', '95 % interval', 'n', ''), rows)}\n\n"
        f"Measured by `specact run --preset {meta['preset']} --seed {meta['seed']}` on families of "
        "tasks that were trained on, other tasks than in training; intervals over resampled tasks. "
        f"Acceptable: {meta['label'].partition(': ')[2] or meta['label']}."
    )


def _metrics(replay: Mapping[str, Any], role: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in replay["proposers"]:
        if each["role"] == role:
            measured = each["groups"]["in_family"]
            yield from ((what, measured[level]) for level, what in _LEVELS.items())
    for each in replay["verifiers"]:
        if each["name"] == _VERIFIERS.get(role):
            of = f"of the proposals of `{each['proposer']}`"
            yield f"AUROC {of}", each["auroc"]
            yield f"share acceptable {of}", each["base_rate"]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
