"""What a run starts from: the preset with what the user put in its place, and folders of bases."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from specact_rl.errors import ConfigError
from specact_rl.models.loading import local_model
from specact_rl.presets import BUILTIN, Preset, model_path


def adapted_preset(
    preset: Preset,
    *,
    cheap_base: str | None = None,
    strong_base: str | None = None,
    verifier_base: str | None = None,
    chat_template: str | None = None,
    num_tasks: int | None = None,
) -> Preset:
    """The preset with other bases, template or number of tasks; None leaves what it has.

    Args:
        preset: What is changed.
        cheap_base: Folder, hub id, `id@revision`, `builtin:1m` / `builtin:4m`, or `URL#NAME` of a
            server's model.
        strong_base: Likewise.
        verifier_base: Likewise, but no server's, which cannot be trained.
        chat_template: As `Preset.chat_template`.
        num_tasks: In-family tasks over all splits. Those held out and those rolled out twice go
            with it; those ranked and those run live shrink with it. None of them below one.

    Raises:
        ConfigError: No task.
    """
    changes = {
        "cheap_base": cheap_base,
        "strong_base": strong_base,
        "verifier_base": verifier_base,
        "chat_template": chat_template,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    preset = replace(preset, **given)  # type: ignore[arg-type]
    if num_tasks is None:
        return preset
    if num_tasks < 1:
        raise ConfigError(f"--num-tasks must be at least 1, got {num_tasks!r}")

    def share(count: int) -> int:
        return max(1, round(count * num_tasks / preset.num_tasks))

    return replace(
        preset,
        num_tasks=num_tasks,
        num_held_out_tasks=share(preset.num_held_out_tasks),
        num_tasks_twice=share(preset.num_tasks_twice),
        num_ranked_tasks=min(preset.num_ranked_tasks, share(preset.num_ranked_tasks)),
        num_live_tasks=min(preset.num_live_tasks, share(preset.num_live_tasks)),
    )


@cache  # a hub id is looked up once a run
def base_folder(base: str) -> Path:
    """Local folder of a base; one from the hub is downloaded, or taken from the cache.

    Raises:
        ConfigError: No such builtin base.
        ModelError: It cannot be had, or is no whole checkpoint.
    """
    path = model_path(base)
    return Path(path) if base.startswith(BUILTIN) else local_model(path)
