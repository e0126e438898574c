"""Shared-prefix scoring against length-sorted naive batches, in alternating runs.

    python benchmarks/bench_scoring.py
    python benchmarks/bench_scoring.py --bf16 runs/demo

Summed log-probabilities of candidates at the steps of workspace rollouts, fp32, the shipped bases.
`steps`: 200 steps, each with a prompt of its own, 8 candidates. `rollouts`: rollouts of 12 steps or
more, cut to 12, 8 candidates at each; their prompts extend one another. `short`: rollouts as they
are (4 steps on average), 20 candidates. The naive way computes every prompt with every candidate,
in batches of like length. Prints the ratio of each pair of runs, and at what share of the rate of a
matrix product each way does the FLOPs that it does; both ways must agree to 1e-3 in summed
log-probability.

With --bf16 it measures no time but, with the trained models of a finished run and at steps of its
test split, what bf16 changes against fp32: summed log-probabilities of 8 candidates, the best of
them, and which first proposals D's frozen gate accepts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch

from specact_rl.envs.corpus import FIRST_CORPUS_SEED, corpus_rollouts
from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.labels import StepLabeller
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.eval.outcomes import verifier_scores
from specact_rl.metrics.cost import ModelSize
from specact_rl.mining.build_rollouts import iter_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.models.device import machine_facts, operator_shares, product_rate
from specact_rl.models.loading import (
    checkpoint_renderer,
    load_causal_lm,
    load_tokenizer,
    model_size,
)
from specact_rl.models.prefix import num_cached_tokens
from specact_rl.models.scoring import score_candidates
from specact_rl.models.work import branch_flops
from specact_rl.policy.gates import Gate
from specact_rl.presets import model_path
from specact_rl.rendering import Renderer, RolloutTokens, StepPrompt
from specact_rl.store import iter_table, read_json
from specact_rl.types import Proposal, Rollout
from specact_rl.verifiers import ClassifierVerifier

LONG = 12
"""Steps of a long rollout."""
CASES = ("steps", "rollouts", "short")


@dataclass(frozen=True)
class Work:
    """Prompts and the candidates behind each."""

    prompts: list[StepPrompt]
    candidates: list[list[list[int]]]

    @classmethod
    def of(cls, case: str, scale: float, renderer: Renderer) -> Work:
        """Of one case; `scale` makes it smaller."""
        if case == "steps":
            work = cls.at(corpus_rollouts(max(1, round(60 * scale))), 8, renderer)
            apart = [RolloutTokens.of_prompt(p.ids, p.step_id).prompts()[0] for p in work.prompts]
            return cls(apart[:200], work.candidates[:200])
        if case == "rollouts":
            return cls.at(islice(long_rollouts(), max(1, round(8 * scale))), 8, renderer)
        return cls.at(corpus_rollouts(max(1, round(12 * scale))), 20, renderer)

    @classmethod
    def at(cls, rollouts: Iterable[Rollout], most: int, renderer: Renderer) -> Work:
        """At the steps of these, up to so many candidates each."""
        prompts, candidates = [], []
        for rollout in rollouts:
            labeller = StepLabeller(rollout)
            prompts += renderer.rollout_ids(rollout).prompts()
            for step in rollout.each_step():
                legal = labeller.environment_at(step.index).legal_actions()
                few = random.Random(step.step_id).sample(legal, min(most, len(legal)))
                candidates.append([renderer.completion_ids(action) for action in few])
        return cls(prompts, candidates)

    def flops(self, size: ModelSize) -> tuple[float, float]:
        """Of the shared and of the naive way; padding counts for neither."""
        shared = naive = 0.0
        cached = num_cached_tokens(self.prompts)
        for prompt, known, each in zip(self.prompts, cached, self.candidates, strict=True):
            n = len(prompt.ids)
            shared += branch_flops(size, known, n, [ids[:-1] for ids in each])
            naive += sum(size.flops(0, n + len(ids)) for ids in each)
        return float(shared), float(naive)


def long_rollouts() -> Iterator[Rollout]:
    """The first 12 steps of episodes of a clumsy expert."""
    for seed in count(FIRST_CORPUS_SEED):
        policy = NoisyExpert(noise=0.6, rng=random.Random(seed))
        rollout = run_episode(Workspace(seed), policy, "scripted")
        if len(rollout.steps) >= LONG:
            end = rollout.steps[LONG].message_index if len(rollout.steps) > LONG else None
            yield replace(
                rollout, steps=rollout.steps[:LONG], messages=rollout.messages[:end], success=None
            )


@torch.inference_mode()
def naive(
    model: torch.nn.Module,
    pairs: Sequence[tuple[list[int], list[int]]],
    pad: int,
    batch_size: int = 64,
) -> np.ndarray:
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


def show_bf16(run: Path, num_steps: int) -> None:
    """Print what bf16 changes at the first so many steps of a run's test split."""
    rollouts, found = [], 0
    for rollout in iter_rollouts(run / "rollouts", ["test"]):
        if found < num_steps:
            rollouts.append(rollout)
            found += len(rollout.steps)
    print(f"{found} steps of {len(rollouts)} test rollouts, bf16 against fp32 on this CPU")
    for name in ("cheap", "strong"):
        folder = run / "models" / name
        work = Work.at(rollouts, 8, checkpoint_renderer(folder))
        model = load_causal_lm(folder, "float32")
        exact = score_candidates(model, work.prompts, work.candidates)
        rough = score_candidates(model.bfloat16(), work.prompts, work.candidates)
        other = [a.argmax() != b.argmax() for a, b in zip(exact, rough, strict=True)]
        print(
            f"{name}: summed log-probabilities "
            f"{differences(np.concatenate(exact), np.concatenate(rough))}; "
            f"another best candidate at {sum(other)} of {len(other)} steps"
        )
    verifier = ClassifierVerifier.load(run / "models" / "verifier")
    gate = Gate.from_json(read_json(run / "gates" / "D.json"))
    table = iter_table(run / "outcomes" / "cheap" / PROPOSALS_FILE, Proposal)
    first = {p.step_id: p for p in table if p.sample == 0}
    proposals = [first[step.step_id] for rollout in rollouts for step in rollout.each_step()]
    log_odds, accepted = [], []
    for dtype in (torch.float32, torch.bfloat16):
        verifier.model.to(dtype)
        scores = verifier_scores(verifier, rollouts, proposals, verifier.renderer)
        accepted.append(gate.decide(gate.p_accept([s.log_odds for s in scores])))
        log_odds.append(np.array([s.log_odds for s in scores if s.log_odds is not None]))
    print(
        f"verifier: log-odds {differences(*log_odds)}; D decides otherwise at "
        f"{(accepted[0] != accepted[1]).sum()} of {len(proposals)} steps, accepts "
        f"{accepted[0].sum()} in fp32 and {accepted[1].sum()} in bf16"
    )


def differences(exact: np.ndarray, rough: np.ndarray) -> str:
    """Of two arrays of one shape, in words."""
    median, most, worst = np.quantile(np.abs(exact - rough), [0.5, 0.99, 1.0])
    return (
        f"differ by {median:.3f} (median), {most:.3f} (99 %), {worst:.3f} (most), n = {exact.size}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rollouts")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["1m", "4m"])
    parser.add_argument("--profile", action="store_true", help="operators of the shared way, too")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--bf16", type=Path, metavar="RUN", help="a finished run's folder")
    parser.add_argument("--steps", type=int, default=300, help="of --bf16")
    args = parser.parse_args()
    if args.bf16:
        show_bf16(args.bf16, args.steps)
        return
    rate = product_rate(on_cpu=True)
    results = {**machine_facts(), "product_flops_per_second": rate, "runs": args.runs, "rows": []}
    print(f"{torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s in a product of 1,024^2")
    print(
        "| model | case | steps x candidates | naive / shared: median, least, most | of the rate |"
    )
    print("|---|---|---|---|---|")
    for size in args.sizes:
        path = model_path(f"builtin:{size}")
        renderer = Renderer(tokenizer=load_tokenizer(path), catalogue="compact")
        model = load_causal_lm(path)
        for case in args.cases:
            work = Work.of(case, args.scale, renderer)
            pairs = [
                (prompt.ids, ids)
                for prompt, each in zip(work.prompts, work.candidates, strict=True)
                for ids in each
            ]
            seconds: tuple[list[float], list[float]] = ([], [])
            for run in range(args.runs + 1):
                started = time.perf_counter()
                shared = np.concatenate(score_candidates(model, work.prompts, work.candidates))
                middle = time.perf_counter()
                apart = naive(model, pairs, renderer.tokenizer.pad_token_id)
                ended = time.perf_counter()
                assert np.abs(shared - apart).max() < 1e-3, np.abs(shared - apart).max()
                if run:  # the first pair warms up
                    seconds[0].append(middle - started)
                    seconds[1].append(ended - middle)
            ratios = [b / a for a, b in zip(*seconds, strict=True)]
            shares = [
                flops / statistics.median(each) / rate
                for flops, each in zip(work.flops(model_size(model)), seconds, strict=True)
            ]
            row = {
                "model": size,
                "case": case,
                "num_steps": len(work.prompts),
                "candidates_per_step": len(pairs) / len(work.prompts),
                "shared_seconds": seconds[0],
                "naive_seconds": seconds[1],
                "naive_over_shared": interval(ratios),
                "shares_of_rate": {"shared": shares[0], "naive": shares[1]},
            }
            if args.profile:
                row["operators"] = operator_shares(
                    lambda m=model, w=work: score_candidates(m, w.prompts, w.candidates),
                    between=True,
                )
            results["rows"].append(row)
            print(
                f"| {size} | {case} | {len(work.prompts)} x {len(pairs) / len(work.prompts):.1f} "
                f"| {statistics.median(ratios):.1f}, {min(ratios):.1f}, {max(ratios):.1f} "
                f"| shared {100 * shares[0]:.0f} %, naive {100 * shares[1]:.0f} % |",
                flush=True,
            )
            if args.out:
                args.out.write_text(json.dumps(results, indent=1) + "\n")
    for row in results["rows"] if args.profile else []:
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in row["operators"].items())
        print(f"Operator time of the shared way, {row['model']}, {row['case']}: {told}")


def interval(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


if __name__ == "__main__":
    main()
