"""Recipes in processes of their own, which end with the run that launched them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from specact_rl.errors import SpecActError
from specact_rl.models import tied
from specact_rl.models.training_percents import forget_progress, training_percents
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
    waiting = list(range(len(trainings)))
    running: dict[int, subprocess.Popen[bytes]] = {}
    # A training that saves its model tells nothing any more, but is not back at its beginning.
    percents = [0] * len(trainings)
    shown = 0
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                # From this thread: the kernel kills a child when the thread that made it is gone.
                i = waiting.pop(0)
                running[i] = _start(trainings[i], threads)
            time.sleep(_POLL_S)
            for i, process in list(running.items()):
                if process.poll() is None:
                    folder = Path(trainings[i].arguments["output_dir"])
                    percents[i] = max(percents[i], training_percents(folder))
                else:
                    _check_ended(trainings[i], process.returncode)
                    del running[i]
                    percents[i] = 100
            if progress is not None and sum(percents) > shown:
                progress(sum(percents) - shown)
                shown = sum(percents)
    finally:
        for process in running.values():
            _stop(process)


def _start(training: Training, threads: int) -> subprocess.Popen[bytes]:
    training.log.parent.mkdir(parents=True, exist_ok=True)
    forget_progress(Path(training.arguments["output_dir"]))
    # Launcher and recipe are tied each: the one may be gone before the other is there.
    tie = [tied.__file__, _own_identity()]
    command = [sys.executable, *tie, *_launcher(threads)]
    command += [*tie, str(find_program("recipes", training.recipe))]
    command += ["--config", str(training.config)]
    for name, value in training.arguments.items():
        command += [f"--{name}", value]
    with training.log.open("w", encoding="utf-8") as stream:
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, for _stop
        )


def _launcher(threads: int) -> list[str]:
    """Module and options that start a program given after them."""
    command = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    # Left alone, accelerate gives a CPU process one thread.
    return [*command, "--num_cpu_threads_per_process", str(threads)]


def _own_identity() -> str:
    found = tied.identity(os.getpid())
    assert found is not None
    return found


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a launcher and all that it started; its recipe may be there when it is not."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _check_ended(training: Training, code: int) -> None:
    if code == 0:
        return
    lines = training.log.read_text(encoding="utf-8", errors="replace").splitlines()
    own = [line for line in lines if f"{training.recipe}: error:" in line]
    raise SpecActError(
        f"recipe {training.recipe} ended with exit code {code}: "
        f"{own[-1] if own else ' / '.join(lines[-3:])}; its whole output is in {training.log}"
    )
