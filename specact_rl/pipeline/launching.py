"""Recipes in processes of their own, which end with the run that launched them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from specact_rl.errors import SpecActError
from specact_rl.models.processes import TIED_TO_PARENT, die_with_parent
from specact_rl.programs import find_program


def launch(recipe: str, config: Path, arguments: dict[str, str], log: Path) -> None:
    """Run a recipe through accelerate.

    Args:
        recipe: Its name.
        config: YAML file.
        arguments: By name; they win over the config.
        log: File for all that it prints.

    Raises:
        SpecActError: It failed; the message is its own, or the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    # Left alone, accelerate gives a CPU process one thread.
    command += ["--num_cpu_threads_per_process", str(torch.get_num_threads())]
    command += [str(find_program("recipes", recipe)), "--config", str(config)]
    for name, value in arguments.items():
        command += [f"--{name}", value]
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
            env={**os.environ, TIED_TO_PARENT: "1"},
            preexec_fn=die_with_parent,
        )
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        own = [line for line in lines if f"{recipe}: error:" in line]
        raise SpecActError(
            f"recipe {recipe} ended with exit code {done.returncode}: "
            f"{own[-1] if own else ' / '.join(lines[-3:])}; its whole output is in {log}"
        )
