"""Tiny bases that a run pretrains itself, in the place of those that the package ships."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

from specact_rl.errors import ConfigError
from specact_rl.models.server import is_server
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.launching import Training, launch
from specact_rl.presets import BUILTIN, Preset
from specact_rl.programs import programs_root
from specact_rl.store import open_stage

RECIPE = "pretrain_base"
TOKENIZER_SIZE = "1m"
"""Base that is made first, with the tokenizer that all others take."""


def base_sizes(preset: Preset) -> list[str]:
    """Sizes of the bases to pretrain for a preset, in that order.

    Raises:
        ConfigError: A base of the preset is neither one of the package's tiny ones nor a server.
    """
    bases = {preset.cheap_base, preset.strong_base, preset.verifier_base}
    bases = {base for base in bases if not is_server(base)}
    foreign = sorted(base for base in bases if not base.startswith(BUILTIN))
    if foreign:
        raise ConfigError(
            f"a run from scratch must start from tiny bases ({BUILTIN}1m, {BUILTIN}4m), but preset "
            f"{preset.name!r} starts from {', '.join(foreign)}; run it without --from-scratch"
        )
    sizes = {base.removeprefix(BUILTIN) for base in bases}
    return [TOKENIZER_SIZE, *sorted(sizes - {TOKENIZER_SIZE})]


def with_own_bases(preset: Preset, folders: Folders) -> Preset:
    """The preset, starting from the bases in a run's own folders."""

    def own(base: str) -> str:
        if is_server(base):
            return base
        return str(folders.base(base.removeprefix(BUILTIN)))

    return replace(
        preset,
        cheap_base=own(preset.cheap_base),
        strong_base=own(preset.strong_base),
        verifier_base=own(preset.verifier_base),
    )


def pretrain_base(
    size: str,
    preset: Preset,
    folders: Folders,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run the recipe into the base's folder, unless it is there; a killed run goes on.

    `progress` is called with the percents just done.
    """
    config = programs_root() / "recipes" / "configs" / preset.configs / f"{RECIPE}_{size}.yaml"
    inputs = {"config": config}
    arguments = {}
    if size != TOKENIZER_SIZE:
        inputs["tokenizer"] = folders.base(TOKENIZER_SIZE)
        arguments["tokenizer_dir"] = str(folders.base(TOKENIZER_SIZE))
    with open_stage(
        folders.base(size), RECIPE, inputs=inputs, arguments={}, seed=seed, overwrite=True
    ) as stage:
        if not stage.done:
            arguments |= {"output_dir": str(stage.path), "seed": str(seed)}
            log = folders.log(f"base_{size}")
            training = Training(recipe=RECIPE, config=config, arguments=arguments, log=log)
            launch([training], progress=progress)
            for checkpoint in stage.path.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
