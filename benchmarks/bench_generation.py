"""Several proposals of a step over one prefill against one alone, in alternating runs.

    python benchmarks/bench_generation.py

At every step of workspace rollouts, fp32, the shipped bases: one proposal, three, and three that
are distinct. Prints seconds of each round and the ratios' median, minimum and maximum, distinct
actions a step, and at what share of the rate of a matrix product each way does the FLOPs that it
does: tokens that samples of a step begin with alike count once, unless distinct.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.eval.outcomes import counting_distinct
from specact_rl.models.device import machine_facts, operator_shares, product_rate
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import load_causal_lm, load_tokenizer
from specact_rl.models.work import writing_flops
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
    parser.add_argument("--profile", action="store_true", help="operators of one proposal, too")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    rate = product_rate(on_cpu=True)
    results = {**machine_facts(), "product_flops_per_second": rate, "runs": args.runs, "rows": []}
    print(f"{torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s in a product of 1,024^2")
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
        actions, flops = {}, {}
        for run in range(args.runs + 1):
            for name, sampling in ways.items():
                started = time.perf_counter()
                proposed = lm.propose_over(rollouts, sampling)
                if run:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
                together = (
                    [[p] for each in proposed for p in each] if sampling.distinct else proposed
                )
                flops[name] = sum(writing_flops(lm.size, renderer.tokenizer, s) for s in together)
                counted = map(counting_distinct, proposed, (step.tools for step in steps))
                actions[name] = statistics.fmean(rows[-1].num_distinct or 0 for rows in counted)
            if run:
                print(f"{size}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()))
        shares = {n: flops[n] / statistics.median(s) / rate for n, s in seconds.items()}
        row = {
            "model": size,
            "num_steps": len(proposed),
            "num_samples": args.samples,
            "seconds": seconds,
            "over_one": {},
            "distinct_actions": actions,
            "shares_of_rate": shares,
        }
        for name in ("several", "distinct"):
            ratios = [a / b for a, b in zip(seconds[name], seconds["one"], strict=True)]
            row["over_one"][name] = {
                "median": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
            }
            print(
                f"{size}: {len(proposed)} steps, {args.samples} proposals {name} / one: median "
                f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}; "
                f"{actions[name]:.2f} distinct actions a step of {args.samples}"
            )
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
        print(f"{size}: of the rate of a product: {told}")
        if args.profile:
            row["operators"] = operator_shares(
                lambda m=lm: m.propose_over(rollouts, ways["one"]), between=True
            )
            told = ", ".join(f"{kind} {share:.0%}" for kind, share in row["operators"].items())
            print(f"{size}: operator time of one proposal: {told}")
        results["rows"].append(row)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
