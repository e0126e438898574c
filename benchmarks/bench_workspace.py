"""Environment steps per second on one core, with and without what is done around a step.

    python benchmarks/bench_workspace.py

Plays the expert's episodes of a few hundred tasks, each way in turn, several rounds. Prints a
table: steps (or tasks) per second, the median round, the slowest and the fastest.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from specact_rl.envs.episodes import NoisyExpert, expert_policy, run_episode
from specact_rl.envs.labels import label_in
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.types import Action

Way = Callable[[], int]
"""Does its work once and returns how many steps (or tasks) that were."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    ways = make_ways(args.tasks)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds + 1):
        for name, way in ways.items():  # in turn, so that a busy minute hits all of them
            started = time.perf_counter()
            count = way()
            speed = count / (time.perf_counter() - started)
            if number:  # the first round warms up
                speeds[name].append(speed)
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; one core used")
    print(f"{args.tasks} tasks, {args.rounds} rounds\n")
    print("| per second | median | slowest | fastest |")
    print("|---|---:|---:|---:|")
    for name, found in speeds.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:,.0f} | {min(found):,.0f} | {max(found):,.0f} |")


def make_ways(num_tasks: int) -> dict[str, Way]:
    """What is measured, by name."""
    envs = [Workspace(seed) for seed in range(num_tasks)]
    starts = [env.snapshot() for env in envs]
    recorded: list[list[Action]] = []
    for env, start in zip(envs, starts, strict=True):
        recorded.append([])
        while not env.done:
            recorded[-1].append(env.expert_action())
            env.step(recorded[-1][-1])
        env.restore(start)

    def draw() -> int:
        return len([Workspace(seed) for seed in range(num_tasks)])

    def step() -> int:
        for env, start, actions in zip(envs, starts, recorded, strict=True):
            env.restore(start)
            for action in actions:
                env.step(action)
        return sum(map(len, recorded))

    def expert() -> int:
        num_steps = 0
        for env, start in zip(envs, starts, strict=True):
            env.restore(start)
            while not env.done:
                env.step(env.expert_action())
                num_steps += 1
        return num_steps

    def candidates() -> int:
        num_steps = 0
        for env, start in zip(envs, starts, strict=True):
            env.restore(start)
            while not env.done:
                env.legal_actions()
                env.step(env.expert_action())
                num_steps += 1
        return num_steps

    def branch() -> int:
        num_steps = 0
        for env, start, actions in zip(envs, starts, recorded, strict=True):
            env.restore(start)
            for action in actions:
                env.restore(env.snapshot())
                env.step(action)
                num_steps += 1
        return num_steps

    def label() -> int:
        for env, start, actions in zip(envs, starts, recorded, strict=True):
            env.restore(start)
            for action in actions:
                label_in(env, action)
                env.step(action)
        return sum(map(len, recorded))

    def rollouts() -> int:
        return sum(len(run_episode(Workspace(s), expert_policy, "e").steps) for s in seeds)

    def noisy_rollouts() -> int:
        policies = [NoisyExpert(noise=0.3, rng=random.Random(seed)) for seed in seeds]
        pairs = zip(seeds, policies, strict=True)
        return sum(len(run_episode(Workspace(s), policy, "n").steps) for s, policy in pairs)

    seeds = range(num_tasks)
    return {
        "tasks drawn": draw,
        "steps, recorded actions": step,
        "steps, snapshot and restore at each": branch,
        "steps, expert asked at each": expert,
        "steps, a proposal labelled at each": label,
        "steps, expert and 20 candidates at each": candidates,
        "steps of logged expert rollouts, all in": rollouts,
        "steps of logged noisy rollouts, all in": noisy_rollouts,
    }


def cpu_name() -> str:
    """Name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
