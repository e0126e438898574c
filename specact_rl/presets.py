"""Presets: the sizes and models of a whole run. Data; `pipeline` runs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from specact_rl.errors import ConfigError
from specact_rl.types import SplitName

BUILTIN = "builtin:"
"""Prefix of a base that the package ships."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One way to go from nothing to a report."""

    name: str
    cheap_base: str
    """Folder, hub id, `builtin:1m` / `builtin:4m`, or `URL#NAME` of a server's model."""
    strong_base: str
    verifier_base: str
    catalogue: str
    """"compact" for tiny models, "template" for pretrained ones."""
    configs: str
    """Folder of recipes/configs."""
    num_tasks: int
    """In-family tasks, over all splits."""
    num_held_out_tasks: int
    """Tasks of families kept out of training; all of them test."""
    policies: tuple[str, ...]
    """Who acted in the logged rollouts; see `envs.collect`. The first acts once on every task."""
    num_tasks_twice: int
    """In-family tasks on which the further policies act as well: a task with a success and a
    failure is what some pair strategies need, and all that they need."""
    fractions: dict[SplitName, float]
    num_samples: int
    """Proposals per step of the cheap model; the first is greedy."""
    temperature: float
    max_new_tokens: int
    num_ranked_tasks: int
    """Test tasks at whose steps candidates are ranked."""
    num_live_tasks: int
    pair_strategies: tuple[str, ...]
    max_pairs_per_task: int
    dtype: str
    """Of the models when they propose and judge."""
    num_side_by_side: int
    """Recipes that train at a time, where they need not wait for one another. Tiny models gain
    little from a second core, and much of a short training is a single-threaded start."""
    chat_template: str = "own"
    """What its models are trained with and keep: a name of `models.chat_templates`, or "own" for
    their tokenizers' own. The configs of its recipes say the same, for use without a run."""


_TINY = Preset(
    name="tiny",
    cheap_base="builtin:1m",
    strong_base="builtin:4m",
    verifier_base="builtin:1m",
    catalogue="compact",
    configs="tiny",
    num_tasks=920,
    num_held_out_tasks=60,
    policies=("noisy:0.15", "noisy:0.4"),
    num_tasks_twice=160,
    fractions={"train_proposer": 0.15, "train_verifier": 0.25, "calibration": 0.25, "test": 0.35},
    num_samples=3,
    temperature=1.0,
    max_new_tokens=40,
    num_ranked_tasks=60,
    num_live_tasks=100,
    pair_strategies=("same_prefix", "divergence", "hard_negative"),
    max_pairs_per_task=2,
    dtype="float32",
    num_side_by_side=2,
)

_SMOKE = replace(
    _TINY,
    name="smoke",
    strong_base="builtin:1m",
    configs="smoke",
    num_tasks=45,
    num_held_out_tasks=3,
    num_tasks_twice=45,
    fractions={"train_proposer": 0.2, "train_verifier": 0.2, "calibration": 0.35, "test": 0.25},
    max_new_tokens=32,
    num_ranked_tasks=4,
    num_live_tasks=4,
    pair_strategies=("same_prefix", "hard_negative"),
    max_pairs_per_task=4,
)

_QWEN3 = Preset(
    name="qwen3",
    cheap_base="Qwen/Qwen3-1.7B",
    strong_base="Qwen/Qwen3-8B",
    verifier_base="Qwen/Qwen3-4B",
    catalogue="template",
    configs="qwen3",
    num_tasks=3000,
    num_held_out_tasks=200,
    policies=("noisy:0.15", "noisy:0.4"),
    num_tasks_twice=3000,
    fractions={"train_proposer": 0.3, "train_verifier": 0.3, "calibration": 0.2, "test": 0.2},
    num_samples=3,
    temperature=1.0,
    max_new_tokens=128,
    num_ranked_tasks=60,
    num_live_tasks=100,
    pair_strategies=("same_prefix", "divergence", "hard_negative"),
    max_pairs_per_task=8,
    dtype="bfloat16",
    num_side_by_side=1,
    # The hub's own writes an empty thought into each turn, and shows earlier turns without.
    chat_template="qwen3_instruct_2507_training",
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (_TINY, _SMOKE, _QWEN3)}


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {list(PRESETS)!r}, got {name!r}")
    return PRESETS[name]


def model_path(base: str) -> str:
    """Folder or hub id of a base; `builtin:` ones are in the package.

    Raises:
        ConfigError: No such builtin base.
    """
    if not base.startswith(BUILTIN):
        return base
    folder = Path(__file__).parent / "models" / "bases" / base.removeprefix(BUILTIN)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"base {base!r} must be in {folder}, but is not; recipes/pretrain_base.py makes it"
        )
    return str(folder)
