"""The methods: recipe, rows and settings of each. Data; `comparison` runs them.

A variant of a method is written `NAME+KEY=VALUE+...`, with keys of its recipe's config.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from specact_rl.errors import ConfigError

START = "start"
"""Name of the proposer that all methods start from, untrained further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to go on from the start."""

    name: str
    title: str
    recipe: str
    config: str
    """Name of a YAML file of the preset, without ending."""
    data: str
    """Key in `comparison.DATA_SETS`, which says what the start wrote for it, and is charged."""
    options: dict[str, str] = field(default_factory=dict)
    """Keys of the recipe that win over the config, each with one word."""


def _plain(name: str, title: str, recipe: str, data: str, **options: str) -> Method:
    return Method(name=name, title=title, recipe=recipe, config=recipe, data=data, options=options)


def _dpo(name: str, title: str, data: str, config: str = "dpo_proposer", **options: str) -> Method:
    return Method(
        name=name, title=title, recipe="dpo_proposer", config=config, data=data, options=options
    )


_TABLE = (
    # A fifth of the rate that makes the start of a base: at that one, more of the same forgets.
    _plain(
        "sft-more",
        "SFT on the expert's actions",
        "sft_proposer",
        "expert",
        learning_rate="1e-4",
    ),
    _plain(
        "raft", "SFT on its own right actions (RAFT)", "reward_weighted_sft", "judged", mode="raft"
    ),
    _plain(
        "rwr",
        "SFT on its own actions, right ones weigh more (RWR)",
        "reward_weighted_sft",
        "judged",
        mode="rwr",
    ),
    _plain("kto", "its own right and wrong actions (KTO)", "kto_proposer", "labelled"),
    _dpo("dpo-same-prefix", "DPO, right against wrong at one step", "same_prefix"),
    _dpo("dpo-on-policy", "DPO, both sides the proposer's own", "on_policy"),
    _dpo("dpo-hard-negative", "DPO, expert against a likely error", "hard_negative"),
    _dpo("dpo-divergence", "DPO, step where episodes part", "divergence"),
    _dpo("dpo-outcome", "DPO, whole episodes", "outcome", "dpo_proposer_trajectory"),
    _dpo(
        "dpo-same-prefix-norm",
        "DPO, right against wrong at one step, mean per token",
        "same_prefix",
        "dpo_proposer_length_normalised",
    ),
    _dpo(
        "dpo-outcome-norm",
        "DPO, whole episodes, mean per token",
        "outcome",
        "dpo_proposer_length_normalised",
        level="trajectory",
        max_length="2048",
        per_device_train_batch_size="4",
    ),
    _plain("grpo", "whole episodes, rewarded (GRPO)", "grpo_proposer", "expert"),
)

METHODS: dict[str, Method] = {method.name: method for method in _TABLE}


def find_method(name: str) -> Method:
    """A method or a variant of one, which keeps its whole name.

    Raises:
        ConfigError: There is none of that name, or a setting without a value.
    """
    base, *settings = name.split("+")
    if base not in METHODS:
        raise ConfigError(f"method must be one of {list(METHODS)!r}, got {base!r}")
    options = dict(METHODS[base].options)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"a variant is NAME+KEY=VALUE, got {name!r}")
        options[key] = value
    return replace(METHODS[base], name=name, options=options)
