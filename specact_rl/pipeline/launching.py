"""Recipes in processes of their own, which end with the run that launched them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from specact_rl.errors import SpecActError
from specact_rl.models.processes import TIED_TO_PARENT, die_with_parent, training_percents
from specact_rl.programs import find_program

_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One recipe to be run."""

    recipe: str
    """Its name."""
    config: Path
    """YAML file."""
    arguments: dict[str, str]
    """By name, `output_dir` among them; they win over the config."""
    log: Path
    """File for all that it prints."""


def launch(
    trainings: Sequence[Training],
    *,
    side_by_side: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run recipes through accelerate, in order.

    Args:
        trainings: Recipes that do not wait for one another.
        side_by_side: How many run at a time; they share the cores. What a training comes to
            depends on its number of threads, and so on this, but not on what runs beside it.
        progress: Called with the percents of trainings just done, 100 for each in the end.

    Raises:
        SpecActError: One failed; the message is its own, or the end of its log. The others are
            stopped, and go on from their checkpoints when they are launched again.
    """
    threads = max(1, torch.get_num_threads() // side_by_side)
    waiting = list(trainings)
    running: list[tuple[Training, subprocess.Popen[bytes]]] = []
    shown = 0
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                # From this thread: the kernel kills a child when the thread that made it is gone.
                training = waiting.pop(0)
                running.append((training, _start(training, threads)))
            time.sleep(_POLL_S)
            ended = [pair for pair in running if pair[1].poll() is not None]
            running = [pair for pair in running if pair not in ended]
            for training, process in ended:
                _check_ended(training, process.returncode)
            num_ended = len(trainings) - len(waiting) - len(running)
            percents = 100 * num_ended + sum(
                training_percents(Path(training.arguments["output_dir"])) for training, _ in running
            )
            if progress is not None and percents > shown:
                progress(percents - shown)
                shown = percents
    finally:
        for _, process in running:
            process.kill()
            process.wait()


def _start(training: Training, threads: int) -> subprocess.Popen[bytes]:
    training.log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    # Left alone, accelerate gives a CPU process one thread.
    command += ["--num_cpu_threads_per_process", str(threads)]
    command += [str(find_program("recipes", training.recipe)), "--config", str(training.config)]
    for name, value in training.arguments.items():
        command += [f"--{name}", value]
    with training.log.open("w", encoding="utf-8") as stream:
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, TIED_TO_PARENT: "1"},
            preexec_fn=die_with_parent,
        )


def _check_ended(training: Training, code: int) -> None:
    if code == 0:
        return
    lines = training.log.read_text(encoding="utf-8", errors="replace").splitlines()
    own = [line for line in lines if f"{training.recipe}: error:" in line]
    raise SpecActError(
        f"recipe {training.recipe} ended with exit code {code}: "
        f"{own[-1] if own else ' / '.join(lines[-3:])}; its whole output is in {training.log}"
    )
