"""The card of a model that a recipe leaves: what it is, of what it was made, what is not known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from huggingface_hub import ModelCardData

from specact_rl.store.cards import card_text, shown_command, table, yaml_block

_USES = {
    "writes": (
        "Proposes or decides the next action of an agent, as one tool call or text, to a prompt "
        "that `specact_rl` renders. Made for research on speculative tool actions, where a gate "
        "decides whether a proposal is executed."
    ),
    "verifier": (
        "Says how likely a proposed action is acceptable: log-odds are the output `acceptable` "
        "minus the other, read at the stop token of a prompt with one action behind it."
    ),
    "reward model": (
        "Gives an action behind a prompt a reward, read at the stop token; higher is better. Only "
        "differences between actions at one prompt were trained."
    ),
}
_LOADS = {"writes": "load_actor", "verifier": "load_judge", "reward model": "load_judge"}
_USE = {
    kind: (
        "```python\n"
        f"from specact_rl.models.loading import checkpoint_renderer, {load}\n\n"
        f"model, renderer = {load}(FOLDER), checkpoint_renderer(FOLDER)\n"
        "```\n\n"
        "The files are those of transformers, whose `from_pretrained` reads them as well."
    )
    for kind, load in _LOADS.items()
}
_LIMITS = {
    "writes": "An action that it writes may be wrong, may not parse, and is not checked here.",
    "verifier": (
        "Its scores are no probabilities until a calibrator was fitted on other rows (`specact "
        "calibrate`): a balanced loss moves them away from the natural share of acceptable actions."
    ),
    "reward model": (
        "A reward is no probability and has no zero; thresholds on it need a calibrator."
    ),
}
_MEASURES = (
    "loss", "mean_token_accuracy", "accuracy", "margin", "mean_reward", "kl", "reward",
    "reward_std", "frac_reward_zero_std",
)  # fmt: skip
_MEASURED = "How good it is"
_UNMEASURED = (
    "Was not measured here: no metric with an interval is known of this folder. `specact run` "
    "writes them for the models that it trains, `specact evaluate` for a system that the model is "
    "part of."
)
_OF_ITS_DATA = (
    "What it learnt holds for actions like those of its data set, proposed by models like those "
    "that proposed them."
)
_TEMPLATE = (
    "`specact.json` says which chat template and tool catalogue it was trained on; `specact_rl` "
    "refuses others, other programs do not notice."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a card says that is not in the log of the training."""

    name: str
    """Of the model's folder."""
    num_labels: int | None
    """Outputs of a classifier; None for a model that writes."""
    base: str | None
    """Hub id of the model it started from; None for a folder."""
    dataset: str
    """Name of the data set's folder."""
    changed: Mapping[str, Mapping[str, Any]]
    """Settings that are not the defaults, by where they are from."""
    weights_sha256: str


def model_card(log: Mapping[str, Any], facts: ModelFacts) -> str:
    """The card, from what `train_log.json` says and `facts`."""
    kind = {None: "writes", 1: "reward model"}.get(facts.num_labels, "verifier")
    origin = log["origin"]
    return _card(
        log,
        facts.name,
        kind,
        _USES[kind],
        [
            ("run", f"`{log['run_hash']}`"),
            ("base model", f"`{origin['base_model_id']}`"),
            ("data set", f"`{facts.dataset}`, {log['num_rows']:,} rows"),
            ("data set's SHA-256", f"`{origin['dataset_hash'] or 'no manifest'}`"),
            ("rows' SHA-256", f"`{origin['rows_sha256']}`"),
            ("weights (SHA-256 over those of their files)", f"`{facts.weights_sha256}`"),
            ("optimizer steps", f"{log['num_steps']:,}"),
            ("tokens seen", f"{log['num_tokens']:,}"),
            ("processes", log["num_processes"]),
            ("seconds", f"{log['seconds']:,}"),
        ],
        facts.changed,
        f"{_LIMITS[kind]} {_OF_ITS_DATA} {_TEMPLATE} No license is stated: those of the base model "
        "and of the data hold.",
        base=facts.base,
    )


def base_card(log: Mapping[str, Any], name: str, changed: Mapping[str, Mapping[str, Any]]) -> str:
    """The card of a tiny base, from what `pretraining.json` says.

    Args:
        log: That file, and the `command`.
        name: Its title.
        changed: As in `ModelFacts`.
    """
    return _card(
        log,
        name,
        "writes",
        "A start for the recipes of `specact_rl`: a language model of the texts that its workspace "
        "makes up, small enough to train on a CPU. Not fine-tuned.",
        [
            ("base model", f"none: random weights of seed {log['seed']}"),
            ("corpus", f"{log['num_episodes']:,} scripted episodes"),
            ("tokens of the corpus", f"{log['corpus_tokens']:,}"),
            ("corpus' SHA-256 (tokens and labels)", f"`{log['corpus_sha256']}`"),
            ("weights' SHA-256", f"`{log['weights_sha256']}`"),
            ("optimizer steps", f"{log['num_steps']:,}"),
            ("passes through the corpus", f"{log['num_epochs']:.3g}"),
            ("seconds of the last start", f"{log['seconds']:,}"),
        ],
        changed,
        f"{_LIMITS['writes']} It knows no text but that of the workspace, in English, with its "
        f"handles of a letter and a digit. {_TEMPLATE} No license is stated: that of `specact_rl`, "
        "which made all of its texts, holds.",
    )


def _card(
    log: Mapping[str, Any],
    name: str,
    kind: str,
    what: str,
    made_from: Sequence[tuple[str, object]],
    changed: Mapping[str, Mapping[str, Any]],
    limits: str,
    *,
    base: str | None = None,
) -> str:
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation" if kind == "writes" else "text-classification",
        tags=["specact_rl", "speculative-actions", "tool-use", log["recipe"]],
        base_model=base,
        base_model_relation="finetune" if base else None,
    )
    return card_text(
        data,
        name,
        {
            "": what,
            "Made from": table(("", ""), [("recipe", f"`{log['recipe']}`"), *made_from]),
            "Use": _USE[kind],
            "Command": "Folders by their last part.\n\n"
            + shown_command(f"recipes/{log['recipe']}.py", log["command"][1:]),
            "Settings": "What is not the default.\n\n"
            + yaml_block({part: values for part, values in changed.items() if values}),
            "Metrics": _metrics(log["log"]),
            _MEASURED: _UNMEASURED,
            "Versions": table(("", ""), list(log["versions"].items())),
            "Intended use": "Research. Do not let it act without somebody or something that checks "
            "what cannot be taken back.",
            "Limits": limits,
        },
    )


def _metrics(entries: Sequence[Mapping[str, Any]]) -> str:
    """The last value of each measure that the trainer logged; there are no intervals of these."""
    last: dict[str, tuple[Any, Any]] = {}
    for entry in entries:
        for key, value in entry.items():
            if _is_measure(key):
                last[key] = (value, entry.get("step"))
    shown = [
        (key, "not a number" if value is None else f"{value:.4g}", step, "none")
        for key, (value, step) in last.items()
    ]
    return (
        f"{table(('logged last', 'value', 'step', 'interval'), shown)}\n\n"
        "These are of one training, of its last rows."
    ).lstrip()


def _is_measure(key: str) -> bool:
    """Whether a logged number says how well it trains, and not how fast, how far or how."""
    if key.startswith("eval_"):
        return not key.endswith(("_runtime", "_per_second"))
    return key in _MEASURES or key.startswith(("rewards/", "logps/"))


def measured_card(card: str, text: str) -> str:
    """The card with what an evaluation measured of the model, in the place of what it said of that.

    At the end of a card that says nothing of it.
    """
    heading = f"\n## {_MEASURED}\n\n"
    before, _, rest = card.partition(heading)
    behind = rest.find("\n\n## ")
    return before + heading + text + (rest[behind:] if behind >= 0 else "\n")


def changed_settings(values: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Those of `values` that are not the defaults of the dataclass they are of, as JSON."""
    defaults = {}
    for each in fields(kind):
        if each.default is not MISSING:
            defaults[each.name] = each.default
        elif each.default_factory is not MISSING:
            defaults[each.name] = each.default_factory()
    plain = json.loads(
        json.dumps(defaults, default=lambda value: getattr(value, "value", str(value)))
    )
    return {
        key: value
        for key, value in values.items()
        if not key.endswith("_token")
        and (key not in plain or plain[key] != value)
        and not (_is_nothing(value) and _is_nothing(plain.get(key)))  # [] for "" is no change
    }


def _is_nothing(value: Any) -> bool:
    """Whether a setting is off or empty; 0 is a number."""
    return value is None or value is False or value in ("", [], {})
