"""Shared-prefix scoring against length-sorted naive batches, in alternating runs.

    python benchmarks/bench_scoring.py

Log-probabilities of 20 candidates at every step of workspace rollouts, fp32, random weights of the
shipped shapes. Prints seconds of each pair of runs and the ratio's median, minimum and maximum;
both ways must agree to 1e-3 in summed log-probability.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.envs.labels import StepLabeller
from specact_rl.models.loading import load_causal_lm, load_tokenizer
from specact_rl.models.scoring import score_candidates
from specact_rl.presets import model_path
from specact_rl.rendering import Renderer


@torch.inference_mode()
def naive(model, pairs, pad, batch_size=64):  # type: ignore[no-untyped-def]
    """Every prompt + candidate by itself, batches of like length."""
    result = np.zeros(len(pairs))
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = max(len(pairs[i][0]) + len(pairs[i][1]) for i in rows)
        ids = torch.full((len(rows), longest), pad)
        for r, i in enumerate(rows):
            both = [*pairs[i][0], *pairs[i][1]]
            ids[r, : len(both)] = torch.tensor(both)
        logprobs = model(input_ids=ids).logits.float().log_softmax(-1)
        for r, i in enumerate(rows):
            prompt, candidate = pairs[i]
            at = torch.arange(len(prompt) - 1, len(prompt) + len(candidate) - 1)
            result[i] = logprobs[r, at, torch.tensor(candidate)].sum().item()
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["1m", "4m"])
    args = parser.parse_args()
    rollouts = list(corpus_rollouts(args.rollouts))
    for size in args.sizes:
        path = model_path(f"builtin:{size}")
        renderer = Renderer(tokenizer=load_tokenizer(path), catalogue="compact")
        model = load_causal_lm(path)
        prompts, candidates = [], []
        for rollout in rollouts:
            labeller = StepLabeller(rollout)
            prompts += renderer.rollout_ids(rollout).prompts()
            for step in rollout.each_step():
                legal = labeller.environment_at(step.index).legal_actions()
                candidates.append([renderer.completion_ids(action) for action in legal])
        pairs = [(p.ids, c) for p, each in zip(prompts, candidates, strict=True) for c in each]
        ratios = []
        for run in range(args.runs + 1):
            started = time.perf_counter()
            shared = np.concatenate(score_candidates(model, prompts, candidates))
            middle = time.perf_counter()
            apart = naive(model, pairs, renderer.tokenizer.pad_token_id)
            ended = time.perf_counter()
            assert np.abs(shared - apart).max() < 1e-3, np.abs(shared - apart).max()
            if run:  # the first pair warms up
                ratios.append((ended - middle) / (middle - started))
                print(f"{size}: shared {middle - started:.2f} s, naive {ended - middle:.2f} s")
        print(
            f"{size}: {len(prompts)} steps x 20 candidates, naive / shared: median "
            f"{statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}, "
            f"{torch.get_num_threads()} threads"
        )


if __name__ == "__main__":
    main()
