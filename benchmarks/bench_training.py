"""Packed SFT and DPO against TRL's defaults and its best settings, in alternating runs.

    python benchmarks/bench_training.py --out benchmarks/results/training.json

Trains the shipped bases on expert actions of workspace episodes (SFT), and on pairs of the expert's
and a wrong legal action (DPO): each round trains every arm once on the same rows, in another order
of arms. Seconds are CPU seconds of the one thread that computes, unless it says "wall": they bear
other work beside. Tokens are those of prompts and actions, both sides of a pair, no padding. The
first losses of all fp32 arms must be the same to 1e-5 where their first batches are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.envs.labels import StepLabeller
from specact_rl.metrics.cost import ModelSize
from specact_rl.models import packed_rows
from specact_rl.models.device import machine_facts, operator_shares
from specact_rl.models.fast_training import PackedDPOTrainer, PackedSFTTrainer
from specact_rl.models.loading import load_tokenizer
from specact_rl.models.training import CutAfterStop, TokenRow, token_rows
from specact_rl.presets import model_path
from specact_rl.programs import find_program
from specact_rl.rendering import Renderer
from specact_rl.store import write_training_rows

BATCH = 8
"""TRL's default."""
NUM_HELD_OUT = 16
NEVER = 10**9
"""A MIN_SHARED that nothing reaches."""
KEPT = {"gradient_checkpointing": False}
TRAINED = {
    "report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
    "dataloader_pin_memory": False, "max_length": None, "logging_steps": 1, "seed": 0,
}  # fmt: skip
"""No part of the comparison: where TRL would report, save and look for a GPU."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to train."""

    name: str
    packed: bool = False
    bf16: bool = False
    sorted_rows: bool = False
    """Rows by length, in order: what grouping by length comes to at best."""
    min_shared: int = packed_rows.MIN_SHARED
    head_at_loss: bool = False
    """TRL's head computes logits only where the loss is, as it does on a GPU."""
    options: dict[str, Any] = field(default_factory=lambda: dict(KEPT))


REF = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 32}
ARMS = {
    "sft": [
        Arm(name="TRL, defaults", bf16=True, options={}),
        Arm(name="TRL, defaults in fp32", options={}),
        Arm(name="TRL, activations kept"),
        Arm(name="TRL, kept, head at the loss", head_at_loss=True),
        Arm(name="TRL, best settings", sorted_rows=True),
        Arm(name="packed, nothing shared", packed=True, min_shared=NEVER),
        Arm(name="packed", packed=True),
        Arm(name="packed, bf16", packed=True, bf16=True),
    ],
    "dpo": [
        Arm(name="TRL, defaults", bf16=True, options={}),
        Arm(name="TRL, defaults in fp32", options={}),
        Arm(name="TRL, activations kept"),
        Arm(name="TRL, best settings", sorted_rows=True, options=KEPT | REF),
        Arm(name="packed, nothing shared", packed=True, min_shared=NEVER),
        Arm(name="packed", packed=True),
        Arm(name="packed, reference beforehand", packed=True, options=KEPT | REF),
        Arm(name="packed, bf16", packed=True, bf16=True),
    ],
}
OURS = "packed"
"""What the recipes do."""
POOL = 600
"""Rows of which those that are trained on are drawn: batches share as little as real ones do."""


class Clock(TrainerCallback):
    """CPU and wall seconds of a training's steps; it stands still while a probe looks."""

    def __init__(self, probe: Any = None, every: int = 0) -> None:
        """Ask `probe` for a held-out loss every so many steps."""
        self.cpu = self.wall = 0.0
        self.curve: list[tuple[float, float]] = []
        self._probe, self._every = probe, every

    def start(self) -> None:
        """Go on."""
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """Stand still."""
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall

    def look(self) -> None:
        """Held-out loss now."""
        self.stop()
        self.curve.append((self.cpu, self._probe()))
        self.start()

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """After each optimizer step."""
        if self._every and state.global_step % self._every == 0:
            self.look()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Rows and model of one kind of training."""

    kind: str
    path: Path
    tokenizer: Any
    rows: list[dict[str, Any]]
    sides: list[list[TokenRow]]
    batch_size: int
    folder: str

    @property
    def num_tokens(self) -> int:
        """Of all rows, both sides of a pair."""
        return sum(len(side.ids) for each in self.sides for side in each)

    def length(self, number: int) -> int:
        """Tokens of a row, of the longer side of a pair."""
        return max(len(side.ids) for side in self.sides[number])

    def trainer(self, arm: Arm, numbers: Sequence[int], **options: Any) -> tuple[Any, Clock]:
        """A trainer on these rows, and the seconds of computing its reference beforehand."""
        if arm.sorted_rows:
            numbers = sorted(numbers, key=self.length)
            options["train_sampling_strategy"] = "sequential"
        every = {
            **TRAINED, "output_dir": self.folder, "bf16": arm.bf16, "num_train_epochs": 1,
            "per_device_train_batch_size": self.batch_size, "model_init_kwargs": {
                "dtype": "float32", "attn_implementation": "sdpa"},
        }  # fmt: skip
        every |= arm.options | options
        reference = Clock()
        if self.kind == "sft":
            rows = [self.sides[i][0] for i in numbers]
            trainer: Any = (PackedSFTTrainer if arm.packed else SFTTrainer)(
                model=str(self.path),
                args=SFTConfig(**every),
                train_dataset=Dataset.from_dict(
                    {"input_ids": [r.ids for r in rows], "labels": [r.labels for r in rows]}
                ),
                processing_class=self.tokenizer,
            )
            return trainer, reference
        collate = DataCollatorForPreference(pad_token_id=self.tokenizer.pad_token_id)
        kind = PackedDPOTrainer if arm.packed else DPOTrainer

        class Timed(kind):  # type: ignore[misc, valid-type]
            def _precompute_ref_logps(self, *args: Any) -> Any:
                reference.start()
                dataset = super()._precompute_ref_logps(*args)
                reference.stop()
                return dataset

        columns = ("prompt", "chosen", "rejected")
        trainer = Timed(
            model=str(self.path),
            args=DPOConfig(**every),
            data_collator=CutAfterStop(collate=collate, stop_token_id=self.tokenizer.eos_token_id),
            train_dataset=Dataset.from_list(
                [{name: self.rows[i][name] for name in columns} for i in numbers],
                on_mixed_types="use_json",
            ),
            processing_class=self.tokenizer,
        )
        return trainer, reference


def make_rows(kind: str, renderer: Renderer, count: int) -> list[dict[str, Any]]:
    """Expert actions of workspace episodes, or pairs of one with a wrong legal action."""
    rng = random.Random(0)
    steps = [
        (StepLabeller(rollout), step)
        for rollout in corpus_rollouts(POOL // 4)
        for step in rollout.each_step()
        if step.reference is not None
    ][:POOL]
    rows: list[dict[str, Any]] = []
    for labeller, step in rng.sample(steps, len(steps)):
        row = renderer.training_row(step, step.reference)
        if kind == "dpo":
            legal = labeller.environment_at(step.index).legal_actions()
            wrong = [a for a in legal if labeller.label(step.index, a).acceptable is False]
            if not wrong:
                continue
            rejected = renderer.training_row(step, rng.choice(wrong))["completion"]
            row = renderer.prompt_fields(step) | {"chosen": row["completion"], "rejected": rejected}
        rows.append(row)
        if len(rows) == count:
            return rows
    raise SystemExit(f"there are {len(rows)} rows, asked for were {count}")


def like_lengths(sides: Sequence[Sequence[TokenRow]], count: int) -> tuple[list[int], list[int]]:
    """Numbers of the rows to train on and of those held out.

    The former are whole batches of neighbours by length, short to long, in a drawn order: sorted
    again, few rows are padded as little as many would be, which favours the best settings.
    """
    rng = random.Random(1)
    order = sorted(range(len(sides)), key=lambda i: max(len(s.ids) for s in sides[i]))
    blocks = [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
    num = count // BATCH
    taken = [blocks[(2 * i + 1) * len(blocks) // (2 * num)] for i in range(num)]
    chosen = [i for block in taken for i in block]
    others = [i for i in range(len(sides)) if i not in set(chosen)]
    return rng.sample(chosen, len(chosen)), rng.sample(others, NUM_HELD_OUT)


@contextmanager
def settings_of(arm: Arm) -> Iterator[None]:
    """What an arm changes in the libraries."""
    import trl.trainer.utils as trl_utils

    of, triton = packed_rows.PackedRows.of.__func__, trl_utils._use_triton  # type: ignore[attr-defined]
    packed_rows.PackedRows.of = classmethod(  # type: ignore[method-assign, assignment]
        lambda cls, rows: of(cls, rows, arm.min_shared)
    )
    if arm.head_at_loss:
        trl_utils._use_triton = lambda device: True
    try:
        yield
    finally:
        packed_rows.PackedRows.of = classmethod(of)  # type: ignore[method-assign]
        trl_utils._use_triton = triton


def run(bench: Bench, arm: Arm, numbers: Sequence[int]) -> dict[str, Any]:
    """One training of an arm: seconds, first loss."""
    with settings_of(arm):
        started = time.process_time()
        trainer, reference = bench.trainer(arm, numbers)
        built = time.process_time() - started - reference.cpu
        clock = Clock()
        clock.start()
        trainer.train()
        clock.stop()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "seconds": clock.cpu + reference.cpu,
        "wall_seconds": clock.wall + reference.wall,
        "reference_seconds": reference.cpu,
        "build_seconds": built,
        "first_loss": losses[0],
        "num_steps": len(losses),
    }


def padding(bench: Bench, order: Sequence[int]) -> float:
    """Tokens of padded batches in this order, over tokens of the rows."""
    starts = range(0, len(order), bench.batch_size)
    longest = [max(map(bench.length, order[i : i + bench.batch_size])) for i in starts]
    return sum(longest) * bench.batch_size * len(bench.sides[0]) / bench.num_tokens


def first_losses(bench: Bench, numbers: Sequence[int]) -> dict[str, float]:
    """Loss of one batch by TRL and packed, before any step; unrounded, as logs are not."""
    found = {}
    for arm in ARMS[bench.kind]:
        if not arm.bf16 and not arm.sorted_rows:
            with settings_of(arm):
                trainer, _ = bench.trainer(arm, numbers)
                found[arm.name] = float(batch_loss(trainer))
    return found


def batch_loss(trainer: Any, numbers: Sequence[int] | None = None) -> torch.Tensor:
    """Loss of rows of a trainer's data set, by default of all of them."""
    data = trainer.train_dataset
    names = [c for c in data.column_names if c not in ("prompt", "chosen", "rejected")]
    rows = [{c: data[i][c] for c in names} for i in (numbers or range(len(data)))]
    loss: torch.Tensor = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    return loss


def interval(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def time_to_loss(bench: Bench, held_out: Bench, seed: int) -> dict[str, Any]:
    """Seconds until each arm's held-out loss is as low as the worst of them ends.

    SFT starts from random weights, since the bases know these episodes, DPO from the base.
    """
    sft = bench.kind == "sft"
    arms = {arm.name: arm for arm in ARMS[bench.kind]}
    best = arms["TRL, best settings"]
    chosen = [
        arms["TRL, defaults in fp32"],
        # In order of length the last batches are the longest; grouping leaves batches in disorder.
        replace(best, options=best.options | {"train_sampling_strategy": "group_by_length"})
        if sft
        else best,
        arms[OURS],
    ]
    training = {"learning_rate": 2e-3 if sft else 1e-4, "num_train_epochs": 4 if sft else 2}
    curves = {}
    for arm in chosen:
        arm = replace(arm, sorted_rows=False)
        with settings_of(arm):
            trainer, reference = bench.trainer(arm, range(len(bench.rows)), seed=seed, **training)
            judge, _ = held_out.trainer(Arm(name="", packed=True), range(len(held_out.rows)))
            if sft:
                torch.manual_seed(seed)
                trainer.model.init_weights()
                for weight in trainer.model.parameters():
                    if weight.ndim > 1:
                        torch.nn.init.normal_(weight, std=0.02)

            def probe(judge: Any = judge, trainer: Any = trainer) -> float:
                judge.model.load_state_dict(trainer.model.state_dict())
                with torch.no_grad():
                    return float(batch_loss(judge))

            clock = Clock(probe, every=2)
            clock.cpu = reference.cpu
            trainer.add_callback(clock)
            clock.start()
            clock.look()
            trainer.train()
            clock.stop()
        curves[arm.name] = clock.curve
    target = max(min(loss for _, loss in curve) for curve in curves.values())
    return {
        "target": target,
        "first": curves[OURS][0][1],
        "seconds": {name: _reached(curve, target) for name, curve in curves.items()},
    }


def _reached(curve: Sequence[tuple[float, float]], target: float) -> float:
    """Seconds at which a curve first is at the target, on straight lines between looks."""
    for (before, high), (after, low) in zip(curve, curve[1:], strict=False):
        if low <= target:
            return before + (after - before) * (high - target) / max(high - low, 1e-12)
    return curve[-1][0]


def product_rate(size: int = 512) -> float:
    """FLOPs a CPU second of a product of two fp32 matrices, median of 9."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    rates = []
    for _ in range(10):
        started = time.process_time()
        for _ in range(10):
            left @ right
        rates.append(20 * size**3 / (time.process_time() - started))
    return statistics.median(rates[1:])


def training_flops(bench: Bench, model: Any, *, packed: bool) -> float:
    """FLOPs of a pass over all rows: forward and twice that backward, a reference once more.

    Packed: of the tokens that remain, batches in order of the rows; without: of all real tokens,
    logits everywhere.
    """
    config = model.config
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    table = config.vocab_size * config.hidden_size
    size = ModelSize(num_params=model.num_parameters() - table, attention_width=width)
    total = 0.0
    for start in range(0, len(bench.sides), bench.batch_size):
        rows = [side for each in bench.sides[start : start + bench.batch_size] for side in each]
        logits = sum(len(r.completion) if packed else len(r.ids) for r in rows)
        if packed:
            runs = packed_rows.PackedRows.of([r.ids[:-1] for r in rows]).runs
            total += sum(size.flops(r.position, r.position + r.length) for r in runs)
        else:
            total += sum(size.flops(0, len(r.ids)) for r in rows)
        total += 2 * table * logits
    return total * (4 if bench.kind == "dpo" else 3)


def profile(bench: Bench, arm: Arm, numbers: Sequence[int]) -> dict[str, float]:
    """Share of a training's operator time by kind of operator."""
    with settings_of(arm):
        trainer, _ = bench.trainer(arm, numbers)
        return operator_shares(trainer.train)


def whole_programs(bench: Bench, folder: Path) -> dict[str, float]:
    """Wall and CPU seconds of the recipe and of TRL's command, imports to saved model."""
    data = folder / f"rows-{bench.kind}"
    write_training_rows(data, {"train": bench.rows}, "Rows of a benchmark.")
    options = {
        "model_name_or_path": bench.path, "use_cpu": True, "report_to": "none", "seed": 0,
        "per_device_train_batch_size": bench.batch_size, "num_train_epochs": 1,
        "save_strategy": "no",
    }  # fmt: skip
    recipe = [
        sys.executable,
        find_program("recipes", f"{bench.kind}_proposer"),
        "--dataset_dir",
        data,
    ]
    trl = [Path(sys.executable).parent / "trl", bench.kind, "--dataset_name", data, "--bf16", False]
    found = {}
    for name, command in (("recipe", recipe), ("trl", trl)):
        full = [*command, "--output_dir", folder / f"{name}-{bench.kind}"]
        full += [text for pair in options.items() for text in (f"--{pair[0]}", pair[1])]
        before, started = os.times(), time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(list(map(str, full)), env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        after = os.times()
        found[f"{name}, wall"] = time.perf_counter() - started
        found[name] = sum(after[2:4]) - sum(before[2:4])
    return found


def measure(bench: Bench, held_out: Bench, rounds: int, seeds: int, folder: Path | None) -> Any:
    """All of one kind of training."""
    arms, numbers = ARMS[bench.kind], list(range(len(bench.rows)))
    losses = first_losses(bench, numbers[: bench.batch_size])
    spread = max(losses.values()) - min(losses.values())
    assert spread < 1e-5, losses
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        for arm in random.Random(number).sample(arms, len(arms)):
            runs[arm.name].append(run(bench, arm, numbers))
            print(
                f"{bench.kind} {number} {arm.name}: {runs[arm.name][-1]['seconds']:.2f} s",
                flush=True,
            )
    ours = OURS
    model = bench.trainer(Arm(name="", packed=True), numbers[:1])[0].model
    product = product_rate()
    seconds = statistics.median(r["seconds"] for r in runs[ours])
    table = {}
    for arm in arms:
        pairs = list(zip(runs[arm.name], runs[ours], strict=True))
        table[arm.name] = {
            "tokens_per_second": interval(
                [bench.num_tokens / r["seconds"] for r in runs[arm.name]]
            ),
            "seconds_over_ours": interval([a["seconds"] / b["seconds"] for a, b in pairs]),
            "wall_over_ours": interval([a["wall_seconds"] / b["wall_seconds"] for a, b in pairs]),
            "build_seconds": statistics.median(r["build_seconds"] for r in runs[arm.name]),
            "reference_seconds": statistics.median(r["reference_seconds"] for r in runs[arm.name]),
        }
    packed = next(arm for arm in arms if arm.name == ours)
    return {
        "num_rows": len(bench.rows),
        "padded_over_real_tokens": {
            "drawn order": padding(bench, numbers),
            "by length": padding(bench, sorted(numbers, key=bench.length)),
        },
        "num_tokens": bench.num_tokens,
        "batch_size": bench.batch_size,
        "num_steps": runs[ours][0]["num_steps"],
        "first_losses_spread": spread,
        "arms": table,
        "product_flops_per_second": product,
        "flops_of_all_tokens": training_flops(bench, model, packed=False),
        "flops_packed": training_flops(bench, model, packed=True),
        "share_of_product_rate": training_flops(bench, model, packed=True) / seconds / product,
        "profile": profile(bench, packed, numbers),
        "time_to_loss": [time_to_loss(bench, held_out, seed) for seed in range(seeds)],
        "whole_programs": whole_programs(bench, folder) if folder else None,
    }


def show(kind: str, size: str, found: Any) -> None:
    """Print one kind's tables."""
    ours = OURS

    def spread(v: Any) -> str:
        return f"{v['median']:.2f} [{v['least']:.2f}, {v['most']:.2f}]"

    print(
        f"\n{kind}, {size}: {found['num_rows']} rows, {found['num_tokens']:,} tokens, batches of "
        f"{found['batch_size']}; first losses differ by {found['first_losses_spread']:.1e}\n"
    )
    print(f"| arm | tokens/s | time / time of {ours!r} | the same, wall | building, s |")
    print("|---|--:|--:|--:|--:|")
    for name, row in found["arms"].items():
        print(
            f"| {name} | {row['tokens_per_second']['median']:,.0f} | "
            f"{spread(row['seconds_over_ours'])} | {spread(row['wall_over_ours'])} | "
            f"{row['build_seconds']:.1f} |"
        )
    left = found["flops_packed"] / found["flops_of_all_tokens"]
    print(
        f"\nFLOPs left of those of all tokens: {left:.2f}; "
        f"at {found['share_of_product_rate']:.0%} of the rate of a product of matrices "
        f"({found['product_flops_per_second'] / 1e9:.0f} GFLOP/s)"
    )
    print("Operator time:", ", ".join(f"{k} {v:.0%}" for k, v in found["profile"].items()))
    for each in found["time_to_loss"]:
        base = each["seconds"][ours]
        print(
            f"Seconds from {each['first']:.4f} to a held-out loss of {each['target']:.4f}: "
            + ", ".join(f"{k} {v:.1f} ({v / base:.2f})" for k, v in each["seconds"].items())
        )
    if found["whole_programs"]:
        print("Whole programs, s:", {k: round(v, 1) for k, v in found["whole_programs"].items()})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2, help="of the time to one loss")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--kinds", nargs="+", default=["sft", "dpo"])
    parser.add_argument("--sizes", nargs="+", default=["1m"])
    parser.add_argument("--no-programs", action="store_true", help="leave out whole programs")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        **machine_facts(),
        "rounds": args.rounds,
    }
    for size in args.sizes:
        path = model_path(f"builtin:{size}")
        renderer = Renderer(tokenizer=load_tokenizer(path), catalogue="compact")
        for kind in args.kinds:
            columns = ["completion"] if kind == "sft" else ["chosen", "rejected"]
            pool = make_rows(kind, renderer, POOL // 2)
            chosen, others = like_lengths(token_rows(pool, renderer, columns), args.rows)
            with tempfile.TemporaryDirectory() as folder:
                parts = [
                    Bench(
                        kind=kind, path=path, tokenizer=renderer.tokenizer, rows=part,
                        sides=token_rows(part, renderer, columns), batch_size=BATCH, folder=folder,
                    )
                    for part in ([pool[i] for i in chosen], [pool[i] for i in others])
                ]  # fmt: skip
                programs = None if args.no_programs else Path(folder)
                found = measure(*parts, args.rounds, args.seeds, programs)
            results[f"{kind}-{size}"] = found
            show(kind, size, found)
            if args.out:
                args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
