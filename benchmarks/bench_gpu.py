"""Training, memory and scoring at the shape of Qwen3-1.7B on one GPU, against what it can multiply.

    python benchmarks/bench_gpu.py --out gpu.json

Random weights, random tokens. Writes JSON after each measurement and prints Markdown at the end;
README.md beside this says how each number is defined. One that fails leaves its error in the JSON,
the others go on, and the exit code is 1. `--shape tiny` runs the same code on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM, TrainerCallback

from specact_rl.metrics.cost import ModelSize
from specact_rl.models import scoring
from specact_rl.models.generation import generate
from specact_rl.models.loading import load_causal_lm
from specact_rl.models.memory import num_adapter_params, num_weights, training_memory
from specact_rl.models.prefix import ModelParts
from specact_rl.models.scoring import TokenTree, score_candidates
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import RolloutTokens

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RECIPE_CONFIG = Path(__file__).parents[1] / "recipes" / "configs" / "qwen3" / "sft_proposer.yaml"
STARTED = time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training to measure; what it does not say is the qwen3 recipe's."""

    name: str
    load_in_4bit: bool = False
    activation_checkpointing: bool = True
    batch_size: int = 4
    accumulation: int = 1
    length: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and how much of everything is measured with it."""

    config: Qwen3Config
    matmul: int
    history: int
    num_steps: int
    first_prompt: int
    naive_rows: int
    new_tokens: int
    runs: int
    main: list[Training]
    further: list[Training]


def _config(**sizes) -> Qwen3Config:  # type: ignore[no-untyped-def]
    return Qwen3Config(
        tie_word_embeddings=True, max_position_embeddings=40_960, pad_token_id=0, eos_token_id=2,
        bos_token_id=None, **sizes,
    )  # fmt: skip


SHAPES = {
    "1.7b": Shape(
        config=_config(
            vocab_size=151_936, hidden_size=2_048, intermediate_size=6_144, num_hidden_layers=28,
            num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        ),
        matmul=8_192, history=4_096, num_steps=8, first_prompt=1_024, naive_rows=16, new_tokens=32,
        runs=5,
        main=[
            Training(name="bf16", length=4_096, steps=50),
            Training(name="nf4", load_in_4bit=True, length=4_096, steps=50),
        ],
        further=[
            Training(name="bf16, batch 1", batch_size=1, length=4_096, steps=8),
            Training(name="nf4, batch 1", load_in_4bit=True, batch_size=1, length=4_096, steps=8),
            Training(name="bf16, kept, batch 1", activation_checkpointing=False, batch_size=1,
                     length=4_096, steps=8),
            Training(name="nf4, kept, batch 1", load_in_4bit=True, activation_checkpointing=False,
                     batch_size=1, length=4_096, steps=8),
            Training(name="bf16, kept, batch 2", activation_checkpointing=False, batch_size=2,
                     length=4_096, steps=8),
            Training(name="bf16, accumulated", accumulation=4, length=4_096, steps=4),
            Training(name="nf4, kept, batch 4", load_in_4bit=True, activation_checkpointing=False,
                     length=4_096, steps=8),
            Training(name="bf16, kept, short rows", activation_checkpointing=False, length=1_024,
                     steps=8),
        ],
    ),
    "tiny": Shape(
        config=_config(
            vocab_size=400, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        ),
        matmul=128, history=96, num_steps=2, first_prompt=32, naive_rows=4, new_tokens=4, runs=1,
        main=[
            Training(name="bf16", batch_size=2, length=64, steps=3),
            Training(name="nf4", load_in_4bit=True, batch_size=2, length=64, steps=3),
        ],
        further=[
            Training(name="bf16, kept", activation_checkpointing=False, accumulation=2,
                     batch_size=1, length=64, steps=2),
        ],
    ),
}  # fmt: skip


def clock() -> float:
    """Seconds, the device having done all it was asked for."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_rate(size: int, runs: int = 20) -> float:
    """FLOPs a second of a square bf16 product of random numbers: the median of `runs`."""
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for run in range(runs + 5):
        started = clock()
        a @ b
        if run >= 5:
            seconds.append(clock() - started)
    return 2 * size**3 / statistics.median(seconds)


def build(shape: Shape, folder: Path) -> None:
    """Save a model of random bf16 weights."""
    torch.manual_seed(0)
    with DEVICE:
        model = Qwen3ForCausalLM(shape.config)
    # Logits of random weights are nearly even (standard deviation 0.9 at this width), which hides
    # rounding; times four they spread as those of a trained model do.
    model.model.norm.weight.data.fill_(4.0)
    model.to(torch.bfloat16).save_pretrained(folder)


def free() -> None:
    """Give back what nobody refers to."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


# Training


class StepClock(TrainerCallback):
    """When each optimizer step ended; memory peaks count from the start of the training."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._ends: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """The model is loaded."""
        free()
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._ends = [clock()]

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """The optimizer has stepped."""
        self._ends.append(clock())

    @property
    def seconds(self) -> list[float]:
        """Of each step, all between two ends: data, logging and optimizer included."""
        return [end - begin for begin, end in itertools.pairwise(self._ends)]


def measure_training(point: Training, shape: Shape, folder: Path, rate: float) -> dict:  # type: ignore[type-arg]
    """Train as recipes/sft_proposer.py does, with the arguments of its qwen3 config."""
    from datasets import Dataset
    from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

    from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments

    options = {
        "dataset_dir": folder,
        "output_dir": folder / "out",
        "model_name_or_path": folder,
        "max_length": point.length,
        "max_steps": point.steps,
        "per_device_train_batch_size": point.batch_size,
        "gradient_accumulation_steps": point.accumulation,
        "activation_checkpointing": point.activation_checkpointing,
        "load_in_4bit": point.load_in_4bit,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": DEVICE.type == "cpu",
    }
    _, training, model = parse_arguments(
        (RecipeArguments, SFTConfig, ModelConfig), RECIPE_CONFIG,
        [text for key, value in options.items() for text in (f"--{key}", str(value))],
    )  # fmt: skip
    training.max_length = None
    training.model_init_kwargs = {"dtype": model.dtype, "use_safetensors": True}
    generator = np.random.default_rng(0)
    num_rows = point.steps * point.accumulation * point.batch_size
    rows = generator.integers(3, shape.config.vocab_size, (num_rows, point.length)).tolist()
    before = torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0
    steps = StepClock()
    trainer = SFTTrainer(
        model=str(folder),
        args=training,
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        processing_class=train_tokenizer(["open f12"], 300),
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[steps],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seconds = steps.seconds[min(5, point.steps // 2) :]
    tokens = point.batch_size * point.accumulation * point.length
    work, recomputed = training_flops(shape.config, model.lora_r, point.length)
    work, recomputed = work * tokens / point.length, recomputed * tokens / point.length
    recomputed *= point.activation_checkpointing
    step = statistics.median(seconds)
    estimate = training_memory(
        shape.config, batch_size=point.batch_size, length=point.length, lora_r=model.lora_r,
        load_in_4bit=point.load_in_4bit, activation_checkpointing=point.activation_checkpointing,
    )  # fmt: skip
    result = asdict(point) | {
        "trainer": "trl.SFTTrainer",
        "lora_r": model.lora_r,
        "lora_alpha": model.lora_alpha,
        "timed_steps": len(seconds),
        "tokens_per_step": tokens,
        "tokens_per_second": tokens / step,
        "tokens_per_second_range": [tokens / max(seconds), tokens / min(seconds)],
        "mfu": work / step / rate,
        "mfu_with_recomputation": (work + recomputed) / step / rate,
        "losses": [losses[0], losses[-1]],
        "losses_finite": len(losses) == point.steps and all(map(math.isfinite, losses)),
        "estimate": asdict(estimate),
        "estimate_bytes": estimate.total,
    }
    if DEVICE.type == "cuda":
        peak = torch.cuda.max_memory_allocated() - before
        result |= {
            "allocated_before_bytes": before,
            "peak_bytes": peak,
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
            "estimate_to_peak": estimate.total / peak,
        }
    return result


def training_flops(config: Qwen3Config, lora_r: int, length: int) -> tuple[int, int]:
    """FLOPs of a row's forward and LoRA backward pass, and of computing its layers once more.

    Forward: 2 for each weight, frozen or of the adapters, and attention (`ModelSize.flops`).
    Backward: 2 for each weight for the gradient of its input, 2 for each adapter's weight for its
    own, and twice the forward's attention.
    """
    frozen, adapters = num_weights(config), num_adapter_params(config, lora_r)
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    attention = ModelSize(num_params=0, attention_width=width).flops(0, length)
    forward = 2 * (frozen + adapters) * length + attention
    backward = (2 * frozen + 4 * adapters) * length + 2 * attention
    return forward + backward, forward - 2 * config.vocab_size * config.hidden_size * length


# Scoring


class Work:
    """FLOPs of what a model computes: tokens through the layers, states through the head."""

    def __init__(self, config: Qwen3Config) -> None:
        """Of this shape."""
        self.head = config.vocab_size * config.hidden_size
        width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
        self.layers = ModelSize(num_params=num_weights(config) - self.head, attention_width=width)

    def shared(self, prompts, candidates) -> int:  # type: ignore[no-untyped-def]
        """Each rollout's longest prompt once, and each node of a step's tree."""
        longest: dict[int, int] = {}
        total = 0
        for prompt, each in zip(prompts, candidates, strict=True):
            length = len(prompt.ids)
            longest[id(prompt.tokens)] = max(length, longest.get(id(prompt.tokens), 0))
            at = length + np.array(TokenTree.of([ids[:-1] for ids in each]).depths)
            total += int(self.layers.flops(at, at + 1).sum()) + 2 * self.head * (1 + len(at))
        return total + sum(self.layers.flops(0, length) for length in longest.values())

    def naive(self, pairs) -> int:  # type: ignore[no-untyped-def]
        """Each prompt with each candidate, padding not counted."""
        return sum(
            self.layers.flops(0, len(prompt) + len(ids)) + 2 * self.head * len(ids)
            for prompt, ids in pairs
        )

    def generated(self, prompts, samples) -> int:  # type: ignore[no-untyped-def]
        """Each prompt once, and each sample's tokens but the last after it."""
        total = 0
        for prompt, each in zip(prompts, samples, strict=True):
            length = len(prompt.ids)
            total += self.layers.flops(0, length)
            for sample in each:
                count = len(sample.token_ids)
                total += self.layers.flops(length, length + count - 1) + 2 * self.head * count
        return total


@torch.inference_mode()
def naive(model, pairs, batch_size):  # type: ignore[no-untyped-def]
    """Every prompt + candidate by itself, batches of like length.

    As in bench_scoring.py, but the vocabulary only where a candidate's token is predicted: all
    logits of such a batch would not fit.
    """
    parts = ModelParts.of(model)
    result = np.zeros(len(pairs))
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids = torch.zeros((len(rows), max(sum(map(len, pairs[i])) for i in rows)), dtype=torch.long)
        for r, i in enumerate(rows):
            both = [*pairs[i][0], *pairs[i][1]]
            ids[r, : len(both)] = torch.tensor(both)
        states = parts.transformer(input_ids=ids.to(DEVICE), use_cache=False).last_hidden_state
        for r, i in enumerate(rows):
            prompt, candidate = pairs[i]
            at = slice(len(prompt) - 1, len(prompt) + len(candidate) - 1)
            logprobs = parts.head(states[r, at]).float().log_softmax(-1)
            targets = torch.tensor(candidate, device=DEVICE)[:, None]
            result[i] = logprobs.gather(1, targets).double().sum().item()
    return result


def histories(shape: Shape, num_rollouts: int, num_steps: int):  # type: ignore[no-untyped-def]
    """Prompts of rollouts whose last has `history` tokens, and 8 candidates at each."""
    generator = np.random.default_rng(1)
    vocabulary = shape.config.vocab_size
    first = shape.history if num_steps == 1 else shape.first_prompt
    lengths = np.linspace(first, shape.history, num_steps).astype(int).tolist()
    prompts, candidates = [], []
    for number in range(num_rollouts):
        tokens = RolloutTokens(
            rollout_id=str(number),
            step_ids=[f"{number}/{step}" for step in range(num_steps)],
            ids=generator.integers(3, vocabulary, shape.history).tolist(),
            prompt_lengths=lengths,
            own_prompts={},
        )
        prompts += tokens.prompts()
        for _ in range(num_steps):
            # Calls begin alike: a third of their 24 to 40 tokens.
            begin = generator.integers(3, vocabulary, 10).tolist()
            candidates.append(
                [
                    begin + generator.integers(3, vocabulary, generator.integers(14, 31)).tolist()
                    for _ in range(8)
                ]
            )
    return prompts, candidates


def alternating(runs: int, ways: dict) -> tuple[dict, dict]:  # type: ignore[type-arg]
    """Seconds of each way in `runs` rounds of all in turn, after one to warm up; last results."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for run in range(runs + 1):
        for name, way in ways.items():
            started = clock()
            results[name] = way()
            ended = clock()
            if run:
                seconds[name].append(ended - started)
    return seconds, results


def ratio(above: list[float], below: list[float]) -> dict:  # type: ignore[type-arg]
    """Ratio of pairs of runs: median, least, most."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def measure_scoring(model, shape: Shape, rate: float, rollouts: int, steps: int) -> dict:  # type: ignore[no-untyped-def, type-arg]
    """Shared prefixes against naive batches, and shared ones with room for more rows a batch."""
    prompts, candidates = histories(shape, rollouts, steps)
    pairs = [(p.ids, c) for p, each in zip(prompts, candidates, strict=True) for c in each]
    cells = scoring.MAX_MASK_CELLS
    scoring.BYTES_PER_MASK_CELL = 2**62  # the sizes compared here, whatever the device has

    def shared(factor: int = 1) -> np.ndarray:
        scoring.MAX_MASK_CELLS = factor * cells
        try:
            return np.concatenate(score_candidates(model, prompts, candidates))
        finally:
            scoring.MAX_MASK_CELLS = cells

    seconds, results = alternating(
        shape.runs,
        {
            "shared": shared,
            "shared_16_times_mask": lambda: shared(16),
            "naive": lambda: naive(model, pairs, shape.naive_rows),
        },
    )
    work = Work(shape.config)
    shared_work, naive_work = work.shared(prompts, candidates), work.naive(pairs)
    return {
        "prompts": len(prompts),
        "candidates": len(pairs),
        "prompt_tokens": [min(len(p.ids) for p in prompts), max(len(p.ids) for p in prompts)],
        "dtype": "bfloat16",
        "runs": shape.runs,
        "seconds": seconds,
        "naive_to_shared": ratio(seconds["naive"], seconds["shared"]),
        "naive_to_shared_16_times_mask": ratio(seconds["naive"], seconds["shared_16_times_mask"]),
        "naive_to_shared_flops": naive_work / shared_work,
        "fraction_of_matmul_rate": {
            "shared": shared_work / statistics.median(seconds["shared"]) / rate,
            "shared_16_times_mask": shared_work
            / statistics.median(seconds["shared_16_times_mask"])
            / rate,
            "naive": naive_work / statistics.median(seconds["naive"]) / rate,
        },
        "largest_difference": float(np.abs(results["shared"] - results["naive"]).max()),
        "mean_logprob": float(results["naive"].mean()),
    }


def measure_proposals(model, shape: Shape, rate: float) -> dict:  # type: ignore[no-untyped-def, type-arg]
    """Three proposals a step over one prefill, against one."""
    prompts, _ = histories(shape, max(1, shape.num_steps // 2), 1)
    tokenizer = train_tokenizer(["open f12"], 300)

    def propose(num_samples: int):  # type: ignore[no-untyped-def]
        return generate(
            model, tokenizer, prompts, num_samples=num_samples, temperature=1.0,
            max_new_tokens=shape.new_tokens, seed=0,
        )  # fmt: skip

    seconds, results = alternating(shape.runs, {"n3": lambda: propose(3), "n1": lambda: propose(1)})
    work = Work(shape.config)
    return {
        "prompts": len(prompts),
        "prompt_tokens": shape.history,
        "new_tokens": shape.new_tokens,
        "runs": shape.runs,
        "seconds": seconds,
        "n3_to_n1": ratio(seconds["n3"], seconds["n1"]),
        "n3_to_n1_flops": work.generated(prompts, results["n3"])
        / work.generated(prompts, results["n1"]),
        "fraction_of_matmul_rate": {
            name: work.generated(prompts, results[name]) / statistics.median(seconds[name]) / rate
            for name in ("n3", "n1")
        },
    }


def measure_precision(shape: Shape, folder: Path) -> dict:  # type: ignore[type-arg]
    """Largest differences in summed log-probability between ways and number formats."""
    prompts, candidates = histories(shape, 2, 1)
    pairs = [(p.ids, c) for p, each in zip(prompts, candidates, strict=True) for c in each]
    sums = {}
    for dtype in ("bfloat16", "float32"):
        model = load_causal_lm(folder, dtype)  # type: ignore[arg-type]
        sums["shared", dtype] = np.concatenate(score_candidates(model, prompts, candidates))
        sums["naive", dtype] = naive(model, pairs, shape.naive_rows // 4)
        del model
        free()

    def apart(one: tuple[str, str], other: tuple[str, str]) -> float:
        return float(np.abs(sums[one] - sums[other]).max())

    best = {key: value.reshape(len(prompts), -1).argmax(1) for key, value in sums.items()}
    return {
        "candidates": len(pairs),
        "shared_naive_bfloat16": apart(("shared", "bfloat16"), ("naive", "bfloat16")),
        "shared_naive_float32": apart(("shared", "float32"), ("naive", "float32")),
        "bfloat16_float32_shared": apart(("shared", "bfloat16"), ("shared", "float32")),
        "bfloat16_float32_naive": apart(("naive", "bfloat16"), ("naive", "float32")),
        "same_best_candidate": all((b == best["naive", "float32"]).all() for b in best.values()),
        "mean_logprob": float(sums["naive", "float32"].mean()),
    }


# Everything


def machine() -> dict:  # type: ignore[type-arg]
    """What it ran on."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
    return {
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


class Results:
    """Measurements by name, written to a file after each."""

    def __init__(self, path: Path | None, limit_s: float) -> None:
        """Nothing is begun after `limit_s`."""
        self.content: dict = {}  # type: ignore[type-arg]
        self._path, self._limit_s = path, limit_s

    @property
    def failed(self) -> bool:
        """Whether one has an error or was skipped."""
        return any("error" in value for value in self.content.values() if isinstance(value, dict))

    def add(self, name: str, measure) -> None:  # type: ignore[no-untyped-def]
        """Measure and keep; an error is kept in its place, as a GPU's minutes do not come back."""
        started = time.perf_counter() - STARTED
        if started > self._limit_s:
            self.content[name] = {"error": f"not begun: {started:.0f} s had passed"}
        else:
            try:
                self.content[name] = measure()
            except Exception:
                self.content[name] = {"error": traceback.format_exc()}
        free()
        took = time.perf_counter() - STARTED - started
        print(f"{name}: {took:.1f} s{self._error(name)}", file=sys.stderr, flush=True)
        if self._path is not None:
            self._path.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")

    def _error(self, name: str) -> str:
        value = self.content[name]
        return f", failed: {value['error'][-600:]}" if "error" in value else ""


def print_tables(content: dict) -> None:  # type: ignore[type-arg]
    """What README.md shows."""
    rate = content["matmul"]["flops_per_second"]
    print(f"{content['machine']['device']}; bf16 product {rate / 1e12:.3g} TFLOP/s\n")
    print("| training | batch x accumulated x tokens | steps | tokens/s | MFU, % | recomputing "
          "counted, % | peak, GB | reserved, GB | estimate, GB | estimate / peak |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, t in content.items():
        if not name.startswith("training: ") or "error" in t:
            continue
        peaks = [f"{t[k] / 1e9:.2f}" if k in t else "–" for k in
                 ("peak_bytes", "peak_reserved_bytes", "estimate_bytes")]  # fmt: skip
        close = f"{t['estimate_to_peak']:.2f}" if "estimate_to_peak" in t else "–"
        batch = f"{t['batch_size']} x {t['accumulation']} x {t['length']:,}"
        rates = f"{100 * t['mfu']:.1f} | {100 * t['mfu_with_recomputation']:.1f}"
        print(f"| {t['name']} | {batch} | {t['steps']} | {t['tokens_per_second']:,.0f} | {rates} | "
              f"{' | '.join(peaks)} | {close} |")  # fmt: skip
    print("\n| scoring | seconds | naive / shared | by FLOPs | of the product's rate, % |")
    print("|---|---|---|---|---|")
    for name, s in content.items():
        if not name.startswith("scoring: ") or "error" in s:
            continue
        for way in ("shared", "shared_16_times_mask", "naive"):
            r = s.get(f"naive_to_{way}")
            cells = f"{r['median']:.1f} [{r['least']:.1f}, {r['most']:.1f}]" if r else "–"
            print(f"| {name[9:]}, {way} | {statistics.median(s['seconds'][way]):.3f} | {cells} | "
                  f"{s['naive_to_shared_flops']:.1f} | "
                  f"{100 * s['fraction_of_matmul_rate'][way]:.1f} |")  # fmt: skip
    for name in ("proposals", "precision"):
        if name in content:
            shown = {k: v for k, v in content[name].items() if k != "seconds"}
            print(f"\n{name}: {json.dumps(shown)}")


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1.7b")
    parser.add_argument("--parts", nargs="+", choices=("train", "score", "memory"),
                        default=["train", "score", "memory"],
                        help="50 steps in bf16 and nf4; scoring and proposing; further trainings, "
                        "of a few steps each, for the memory estimate")  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON file (default: none)")
    parser.add_argument("--seconds", type=float, default=400.0,
                        help="begin no measurement after so many (default: 400)")  # fmt: skip
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    results = Results(args.out, args.seconds)
    results.add("machine", machine)
    results.add("matmul", lambda: {"flops_per_second": matmul_rate(shape.matmul)})
    rate = results.content["matmul"]["flops_per_second"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(shape, folder)
        free()

        def train(points: list[Training]) -> None:
            for point in points:
                results.add(
                    f"training: {point.name}",
                    lambda point=point: measure_training(point, shape, folder, rate),
                )

        if "train" in args.parts:
            train(shape.main)
        if "score" in args.parts:
            model = load_causal_lm(folder, "bfloat16")
            for name, rollouts, steps in (
                (f"{shape.num_steps} steps by themselves", shape.num_steps, 1),
                ("12 steps of one rollout", 1, 12),
            ):
                results.add(
                    f"scoring: {name}",
                    lambda r=rollouts, s=steps: measure_scoring(model, shape, rate, r, s),
                )
            results.add("proposals", lambda: measure_proposals(model, shape, rate))
            del model
            results.add("precision", lambda: measure_precision(shape, folder))
        if "memory" in args.parts:
            train(shape.further)
    results.add("seconds", lambda: {"all": time.perf_counter() - STARTED})
    print_tables(results.content)
    if results.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
