"""What is looked at before a run begins: that its bases are there, and that its stages fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

from transformers import PreTrainedConfig

from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.loading import (
    CHECKPOINT_INFO,
    check_checkpoint_info,
    load_config,
    load_tokenizer,
    local_model,
)
from specact_rl.models.names import ModelName
from specact_rl.pipeline.plan import plan_run
from specact_rl.pipeline.plan_page import what_does_not_fit
from specact_rl.pipeline.servers import Servers
from specact_rl.presets import Preset, model_path
from specact_rl.rendering import CatalogueMode, Renderer

logger = logging.getLogger(__name__)

_ROLES = ("cheap", "strong", "verifier")


def check_before_run(preset: Preset, seed: int, servers: Servers) -> None:
    """Refuse what would be found after hours: a base that is not there, a stage that does not fit.

    Of a base on the hub config and tokenizer are fetched, of a folder the headers of its files are
    read; no weights. What servers have is not ours to look at.

    Raises:
        ConfigError: A stage takes more memory than the device has, by the plan's estimate.
        ModelError: A base cannot be had, is no whole checkpoint, or was trained with another
            template.
    """
    others = {config.model_type for config in check_bases(preset, servers)} - {"qwen3"}
    if others:
        logger.info("memory of %s is not estimated, so it is not checked", ", ".join(others))
        return
    # No stage is slow here, whatever the rate: hours are not looked at.
    plan = plan_run(preset, seed=seed, device_rate=1.0, assume_gpu=False, servers=servers)
    if not plan.fits:
        raise ConfigError(
            f"{plan.device.name} has {plan.device.memory / 1e9:.1f} GB, and the run "
            f"{what_does_not_fit(plan)}. --plan shows all stages"
        )


def check_bases(preset: Preset, servers: Servers) -> list[PreTrainedConfig]:
    """Config of each base but servers', once each of them has been looked up.

    Raises:
        ConfigError: No such builtin base.
        ModelError: As `check_before_run`; says which option names the base.
    """
    configs = []
    for role in _ROLES:
        if role in servers.roles:
            continue
        base: str = getattr(preset, f"{role}_base")
        try:
            configs.append(_checked(model_path(base), preset))
        except ModelError as error:
            raise ModelError(f"--{role}-base {base}: {error}") from error
    return configs


def _checked(base: str, preset: Preset) -> PreTrainedConfig:
    if ModelName.parse(base).is_folder:
        local_model(base)
    config = load_config(base)
    tokenizer = load_tokenizer(base, preset.chat_template)
    if Path(base, CHECKPOINT_INFO).is_file():
        catalogue = cast(CatalogueMode, preset.catalogue)
        check_checkpoint_info(base, Renderer(tokenizer=tokenizer, catalogue=catalogue))
    return config
