"""Live episodes that read on from where they were, against reading each prompt from the start.

    python benchmarks/bench_live.py [RUN]

RUN is the folder of a finished run, read only; one that is not there is skipped. Systems A to E
play the same test tasks, as the live stage does: together they ask a model about a step once. Two
ways in turns: with what models keep of an episode, and with room for nothing. Seconds are of the
process, so that work beside counts less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from specact_rl.eval.live import LiveEpisode, run_live
from specact_rl.models import prefix
from specact_rl.pipeline.artifacts import Artifacts, begun_run
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.live import NUM_KEEPING, live_system, load_verifiers
from specact_rl.pipeline.servers import PROPOSERS
from specact_rl.policy.asking import RememberingModel
from specact_rl.policy.systems import SYSTEMS
from specact_rl.verifiers import ClassifierVerifier

NAMES = "ABCDE"


class Tokens:
    """How many went through the models, padding included."""

    def __init__(self, run: Artifacts) -> None:
        """Of all models of the run."""
        self.count = 0
        verifier, _ = run.verifier("classifier")
        assert isinstance(verifier, ClassifierVerifier)
        models = [run.model(role).model for role in PROPOSERS]
        for model in (*models, verifier.model):
            model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, module: object, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        self.count += inputs[0].numel()


def played(run: Artifacts, tasks: list[str]) -> list[list[LiveEpisode]]:
    """The episodes of each system."""
    keeping = {role: run.model(role).keeping_prefixes(NUM_KEEPING) for role in PROPOSERS}
    models = {role: RememberingModel(model=model) for role, model in keeping.items()}
    verifiers, gates = load_verifiers(run, keeping["strong"]), run.gates()
    return [
        run_live(live_system(run, SYSTEMS[name], gates.get(name), models, verifiers), tasks)
        for name in NAMES
    ]


def acts(episodes: list[list[LiveEpisode]]) -> list[LiveEpisode]:
    """What was done, without seconds and the last digits of scores."""
    return [replace(e, seconds=0.0, steps=None) for each in episodes for e in each]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/demo"), metavar="RUN")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    if not Folders(root=args.run).identity.is_file():
        print(f"skipped {args.run}: no run there; `make demo` makes one")
        return
    run = begun_run(args.run)
    tasks, tokens, room = run.test_tasks(args.tasks), Tokens(run), prefix.KEPT_BYTES
    seconds: dict[str, list[float]] = {"read on": [], "from the start": []}
    read: dict[str, int] = {}
    for turn in range(args.runs + 1):
        done = {}
        for name in seconds:
            prefix.KEPT_BYTES = room if name == "read on" else 0
            tokens.count = 0
            started = time.process_time()
            done[name] = acts(played(run, tasks))
            if turn:  # the first turn warms up
                seconds[name].append(time.process_time() - started)
            read[name] = tokens.count
        assert done["read on"] == done["from the start"]
    num_steps = sum(episode.num_steps for episode in done["read on"])
    print(
        f"systems {', '.join(NAMES)}: {len(tasks)} tasks, {num_steps} steps, {args.runs} turns, "
        f"{torch.get_num_threads()} threads; the same actions"
    )
    print(
        "| way | CPU seconds, median | times `read on`: median, least, most "
        "| tokens through models, padding included |"
    )
    print("|---|---:|---|---:|")
    for name, each in seconds.items():
        ratios = [b / a for a, b in zip(seconds["read on"], each, strict=True)]
        print(
            f"| {name} | {statistics.median(each):.2f} "
            f"| {statistics.median(ratios):.2f}, {min(ratios):.2f}, {max(ratios):.2f} "
            f"| {read[name]:,} |"
        )


if __name__ == "__main__":
    main()
