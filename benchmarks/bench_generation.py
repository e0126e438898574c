"""Several proposals of a step over one prefill against one alone, in alternating runs.

    python benchmarks/bench_generation.py

At every step of workspace rollouts, fp32, the shipped bases: one proposal, three, and three that
are distinct. Prints seconds of each round and the ratios' median, minimum and maximum, and distinct
actions a step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.eval.outcomes import counting_distinct
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import load_causal_lm, load_tokenizer
from specact_rl.presets import model_path
from specact_rl.rendering import Renderer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--sizes", nargs="+", default=["1m", "4m"])
    args = parser.parse_args()
    rollouts = list(corpus_rollouts(args.rollouts))
    steps = [step for rollout in rollouts for step in rollout.each_step()]
    ways = {
        "one": Sampling(max_new_tokens=args.max_new_tokens),
        "several": Sampling(max_new_tokens=args.max_new_tokens, num_samples=args.samples),
        "distinct": Sampling(
            max_new_tokens=args.max_new_tokens, num_samples=args.samples, distinct=True
        ),
    }
    for size in args.sizes:
        path = model_path(f"builtin:{size}")
        renderer = Renderer(tokenizer=load_tokenizer(path), catalogue="compact")
        lm = LanguageModel.of(load_causal_lm(path, "float32"), Path(path), renderer)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        actions = {}
        for run in range(args.runs + 1):
            for name, sampling in ways.items():
                started = time.perf_counter()
                proposed = lm.propose_over(rollouts, sampling)
                if run:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
                counted = map(counting_distinct, proposed, (step.tools for step in steps))
                actions[name] = statistics.fmean(rows[-1].num_distinct or 0 for rows in counted)
            if run:
                print(f"{size}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()))
        for name in ("several", "distinct"):
            ratios = [a / b for a, b in zip(seconds[name], seconds["one"], strict=True)]
            print(
                f"{size}: {len(proposed)} steps, {args.samples} proposals {name} / one: median "
                f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}; "
                f"{actions[name]:.2f} distinct actions a step of {args.samples}, "
                f"{torch.get_num_threads()} threads"
            )


if __name__ == "__main__":
    main()
