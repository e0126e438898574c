"""Configurations A to E from one set of outcomes, against running them one after another.

    python benchmarks/bench_outcomes.py
    python benchmarks/bench_outcomes.py --run runs/demo

The models of a finished run, at its test steps; without one the shipped bases at the steps of
workspace rollouts (cheap: 1M weights, strong: 4M), and a verifier of the cheap one's shape with
random weights. Gates accept what lies above the median. Three ways, in turns: every model once over
all steps, and configurations as joins; each configuration by itself, by the same engine; each by
itself with `generate` of transformers and plain forwards on length-sorted batches, where every
prompt is read anew. Seconds are of the process, so that work beside counts less. Beside each: at
what share of the rate of a matrix product it does the FLOPs that it does, padding not counted.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3ForSequenceClassification

from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.eval.outcomes import generated_proposals, verifier_scores
from specact_rl.metrics.cost import ModelSize
from specact_rl.models.device import machine_facts, product_rate
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import load_causal_lm, load_tokenizer
from specact_rl.models.work import writing_flops
from specact_rl.pipeline.artifacts import Artifacts, begun_run
from specact_rl.presets import model_path
from specact_rl.rendering import Renderer
from specact_rl.types import Proposal, Rollout, Score
from specact_rl.verifiers import ClassifierVerifier, StrongJudge, Verifier

NEW_TOKENS = 40
BATCH = 32
Decisions = dict[str, list[bool]]


class Models:
    """All that configurations need, and how often each model was asked."""

    def __init__(self, rollouts: Sequence[Rollout], run: Artifacts | None) -> None:
        """Those of a run; None takes the shipped bases, and a verifier that knows nothing."""
        self.rollouts = rollouts
        self.steps = [step for rollout in rollouts for step in rollout.each_step()]
        if run is not None:
            self.lms = {role: run.model(role) for role in ("cheap", "strong")}
            self.renderer = self.lms["cheap"].renderer
            verifier, _ = run.verifier("classifier")
            assert isinstance(verifier, ClassifierVerifier)
            self.verifier = replace(verifier, verifier_id="verifier")
        else:
            paths = {
                role: model_path(f"builtin:{size}")
                for role, size in (("cheap", "1m"), ("strong", "4m"))
            }
            self.renderer = Renderer(tokenizer=load_tokenizer(paths["cheap"]), catalogue="compact")
            self.lms = {
                role: LanguageModel(
                    model_id=role, model=load_causal_lm(path), renderer=self.renderer
                )
                for role, path in paths.items()
            }
            torch.manual_seed(0)
            config = copy.deepcopy(self.lms["cheap"].model.config)
            config.num_labels = 2
            model = Qwen3ForSequenceClassification(config).eval()
            self.verifier = ClassifierVerifier(
                verifier_id="verifier", model=model, renderer=self.renderer
            )
        self.calls: Counter[str] = Counter()
        self.tokens = self.flops = 0
        for model in (*(lm.model for lm in self.lms.values()), self.verifier.model):
            model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, module: object, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        self.tokens += inputs[0].numel()

    # One engine for whole rollouts.

    def propose(self, role: str, num_samples: int, steps: set[str] | None = None) -> list[Proposal]:
        """Proposals at some steps; a rollout without one of them is not read."""
        wanted = {s.step_id for s in self.steps} if steps is None else steps
        sampling = Sampling(num_samples=num_samples, max_new_tokens=NEW_TOKENS)
        if steps is None:
            made = generated_proposals(self.lms[role], self.rollouts, sampling)
        else:
            prompts = {
                p.step_id: p
                for rollout in self.rollouts
                for p in self.renderer.rollout_ids(rollout).prompts()
            }
            asked = [s for s in self.steps if s.step_id in wanted]
            found = self.lms[role].propose(asked, sampling, [prompts[s.step_id] for s in asked])
            made = [p for samples in found for p in samples]
        self.calls[f"{role}: proposals"] += len(made)
        for start in range(0, len(made), num_samples):
            samples = made[start : start + num_samples]
            self.flops += writing_flops(self.lms[role].size, self.renderer.tokenizer, samples)
        return made

    def judge(self, verifier: Verifier, proposals: Sequence[Proposal]) -> list[Score]:
        """Scores of all of them."""
        scores = verifier_scores(verifier, self.rollouts, proposals, self.renderer)
        self.calls[f"{verifier.verifier_id}: scores"] += sum(s.num_tokens > 0 for s in scores)
        self.flops += sum(
            verifier.size.flops(s.num_cached_tokens, s.num_cached_tokens + s.num_tokens)
            for s in scores
        )
        return scores

    def strong_judges(self, proposals: Sequence[Proposal]) -> list[Score]:
        """The strong model's own actions, and C's scores beside them: one reading for both."""
        strong = self.lms["strong"].keeping_prefixes()
        sampling = Sampling(max_new_tokens=NEW_TOKENS)
        own = generated_proposals(strong, self.rollouts, sampling)
        self.calls["strong: proposals"] += len(own)
        judge = StrongJudge.of(strong, {p.step_id: p for p in own})
        return self.judge(replace(judge, verifier_id="judge"), proposals)


def accepted(scores: Sequence[Score], num_samples: int) -> np.ndarray:
    """Whether the best sample of each step lies above the median; shape (steps,)."""
    values = np.array([-np.inf if s.log_odds is None else s.log_odds for s in scores])
    best = values.reshape(-1, num_samples).max(axis=1)
    return np.asarray(best > np.median(best))


def once(models: Models) -> Decisions:
    """Every model once; configurations are joins."""
    cheap = models.propose("cheap", 3)
    judged = models.strong_judges([p for p in cheap if p.sample == 0])
    scores = models.judge(models.verifier, cheap)
    of_first = [s for s, p in zip(scores, cheap, strict=True) if p.sample == 0]
    return {
        "C": accepted(judged, 1).tolist(),
        "D": accepted(of_first, 1).tolist(),
        "E": accepted(scores, 3).tolist(),
    }


def one_by_one(models: Models) -> Decisions:
    """Each configuration by itself, by the same engine."""
    models.propose("strong", 1)  # A
    models.propose("cheap", 1)  # B
    found: Decisions = {}
    for name, num_samples in (("C", 1), ("D", 1), ("E", 3)):
        proposals = models.propose("cheap", num_samples)
        if name == "C":  # whose judge has written its own action
            takes = accepted(models.strong_judges(proposals), num_samples)
        else:
            takes = accepted(models.judge(models.verifier, proposals), num_samples)
            rejected = {s.step_id for s, take in zip(models.steps, takes, strict=True) if not take}
            models.propose("strong", 1, rejected)
        found[name] = takes.tolist()
    return found


class Plain:
    """Each configuration by itself, every prompt read anew."""

    def __init__(self, models: Models) -> None:
        """The same models."""
        self.models = models
        self.prompts = {s.step_id: models.renderer.prompt_ids(s) for s in models.steps}
        self.calls: Counter[str] = Counter()
        self.flops = 0

    @torch.inference_mode()
    def propose(
        self, role: str, num_samples: int, steps: Sequence[str]
    ) -> dict[str, list[list[int]]]:
        """Completions by step; the first is greedy."""
        model, pad = self.models.lms[role].model, self.models.renderer.tokenizer.pad_token_id
        stop = self.models.renderer.tokenizer.eos_token_id
        found: dict[str, list[list[int]]] = {step: [] for step in steps}
        for sampled, copies in ((False, 1), (True, num_samples - 1)):
            if not copies:
                continue
            for batch in batches(steps, lambda step: len(self.prompts[step])):
                ids, mask = padded([self.prompts[step] for step in batch], pad, left=True)
                written = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=NEW_TOKENS,
                    do_sample=sampled,
                    num_return_sequences=copies,
                    pad_token_id=pad,
                    eos_token_id=stop,
                )[:, ids.shape[1] :].tolist()
                for i, row in enumerate(written):
                    end = row.index(stop) + 1 if stop in row else len(row)
                    found[batch[i // copies]].append(row[:end])
                    read = len(self.prompts[batch[i // copies]]) + end - 1
                    self.flops += self.models.lms[role].size.flops(0, read)
            self.calls[f"{role}: proposals"] += copies * len(steps)
        return found

    @torch.inference_mode()
    def logprobs(self, completions: Sequence[tuple[str, list[int]]]) -> list[float]:
        """Summed log-probability under the strong model."""

        def of(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.models.lms["strong"].model(input_ids=ids, attention_mask=mask).logits

        def read(logits: torch.Tensor, prompt: int, ids: list[int]) -> float:
            values = logits[prompt - 1 : prompt - 1 + len(ids)].float().log_softmax(-1)
            return float(values.gather(1, torch.tensor(ids)[:, None]).sum())

        self.calls["judge: scores"] += len(completions)
        return self._forward(completions, self.models.lms["strong"].size, of, read)

    @torch.inference_mode()
    def scores(self, completions: Sequence[tuple[str, list[int]]]) -> list[float]:
        """Log-odds of the verifier."""

        def of(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.models.verifier.model(input_ids=ids, attention_mask=mask).logits

        self.calls["verifier: scores"] += len(completions)
        return self._forward(
            completions, self.models.verifier.size, of, lambda row, *_: float(row[1] - row[0])
        )

    def _forward(
        self,
        completions: Sequence[tuple[str, list[int]]],
        size: ModelSize,
        of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        read: Callable[[torch.Tensor, int, list[int]], float],
    ) -> list[float]:
        pad = self.models.renderer.tokenizer.pad_token_id
        rows = [self.prompts[step] + ids for step, ids in completions]
        self.flops += sum(size.flops(0, len(row)) for row in rows)
        values = [0.0] * len(rows)
        for batch in batches(range(len(rows)), lambda i: len(rows[i])):
            out = of(*padded([rows[i] for i in batch], pad, left=False))
            for place, i in enumerate(batch):
                step, ids = completions[i]
                values[i] = read(out[place], len(self.prompts[step]), ids)
        return values

    def run(self) -> Decisions:
        """A to E."""
        steps = [step.step_id for step in self.models.steps]
        self.propose("strong", 1, steps)  # A
        self.propose("cheap", 1, steps)  # B
        found: Decisions = {}
        for name, num_samples in (("C", 1), ("D", 1), ("E", 3)):
            written = self.propose("cheap", num_samples, steps)
            flat = [(step, ids) for step in steps for ids in written[step]]
            if name == "C":
                own = self.propose("strong", 1, steps)
                of_own = self.logprobs([(step, own[step][0]) for step in steps])
                values = np.array(self.logprobs(flat)) - np.array(of_own)
            else:
                values = np.array(self.scores(flat))
            best = values.reshape(-1, num_samples).max(axis=1)
            takes = best > np.median(best)
            if name != "C":
                self.propose(
                    "strong", 1, [s for s, take in zip(steps, takes, strict=True) if not take]
                )
            found[name] = takes.tolist()
        return found


def batches(items: Sequence[Any], length: Callable[[Any], int]) -> list[list[Any]]:
    """Items of like length together."""
    order = sorted(items, key=length)
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def padded(rows: Sequence[list[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), None) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), 1
    return ids, mask


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=24)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--run", type=Path, help="folder of a finished run; default: bases")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    run = None if args.run is None else begun_run(args.run)
    rollouts = (
        list(corpus_rollouts(args.rollouts))
        if run is None
        else run.rollouts("test")[: args.rollouts]
    )
    rate, facts = product_rate(on_cpu=True), machine_facts()
    models = Models(rollouts, run)
    plain = Plain(models)
    ways: dict[str, Callable[[], Decisions]] = {
        "once": lambda: once(models),
        "one by one": lambda: one_by_one(models),
        "one by one, plain": plain.run,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    calls: dict[str, Counter[str]] = {}
    tokens: dict[str, int] = {}
    flops: dict[str, int] = {}
    for turn in range(args.runs + 1):
        decided = {}
        for name, way in ways.items():
            models.calls.clear()
            plain.calls.clear()
            models.tokens = models.flops = plain.flops = 0
            started = time.process_time()
            decided[name] = way()
            if turn:  # the first turn warms up
                seconds[name].append(time.process_time() - started)
            tokens[name] = models.tokens
            calls[name] = Counter(plain.calls if "plain" in name else models.calls)
            flops[name] = plain.flops if "plain" in name else models.flops
        assert decided["once"] == decided["one by one"]
    print(
        f"{len(models.steps)} steps of {args.rollouts} rollouts, {args.runs} turns, "
        f"{torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s in a product of 1,024^2"
    )
    print(
        "| way | CPU seconds, median | times `once`: median, least, most | of the rate "
        "| tokens through models, padding included | rows given to models |"
    )
    print("|---|---:|---|---:|---:|---|")
    threads = torch.get_num_threads()
    shares = {
        name: flops[name] * threads / statistics.median(s) / rate for name, s in seconds.items()
    }
    for name in ways:
        ratios = [b / a for a, b in zip(seconds["once"], seconds[name], strict=True)]
        told = ", ".join(f"{key} {count}" for key, count in sorted(calls[name].items()))
        print(
            f"| {name} | {statistics.median(seconds[name]):.2f} "
            f"| {statistics.median(ratios):.2f}, {min(ratios):.2f}, {max(ratios):.2f} "
            f"| {100 * shares[name]:.1f} % | {tokens[name]:,} | {told} |"
        )
    if args.out:
        results = facts | {
            "product_flops_per_second": rate,
            "num_steps": len(models.steps),
            "seconds": seconds,
            "shares_of_rate": shares,
            "rows_given_to_models": calls,
        }
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
