"""What a run will take, said before anything is downloaded or loaded: rows, FLOPs, memory, hours.

By arithmetic on the shapes of the bases, the recipes' configs and a `Workload`. Nothing here has
been measured on the run itself; memory of trainings was held against a
GPU's (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import numpy as np
import yaml
from transformers import PreTrainedConfig

from specact_rl.eval.live import LOCKSTEP_EPISODES
from specact_rl.eval.outcomes import CHUNK_ROLLOUTS
from specact_rl.metrics.values import IntArray
from specact_rl.mining.build_rows import REWARD_STRATEGIES
from specact_rl.models.architectures import config_of, tokenizer_at_hand
from specact_rl.models.device import Device, find_device
from specact_rl.models.inference_memory import kept_memory, scoring_memory, writing_memory
from specact_rl.models.loading import Dtype, load_tokenizer
from specact_rl.models.memory import Head, InferenceMemory, TrainingMemory, training_memory
from specact_rl.models.work import Work
from specact_rl.pipeline.artifacts import JUDGED
from specact_rl.pipeline.live import NUM_KEEPING
from specact_rl.pipeline.run import EVALUATED, planned_episodes
from specact_rl.pipeline.workload import PlannedRollout, Workload, plan_workload
from specact_rl.policy.systems import SYSTEMS, num_judged
from specact_rl.presets import BUILTIN, Preset, model_path
from specact_rl.programs import programs_root
from specact_rl.rendering import CatalogueMode, Renderer
from specact_rl.types import SPLITS, SplitName

Bound = Literal["exact", "about", "at most"]
"""Of a number of rows: counted; extrapolated from some tasks; or a bound, since it depends on what
a model will write."""
Fit = Literal["yes", "tight", "no"]

TRAINING, SCORING, WRITING = 0.18, 0.15, 0.04
"""Shares of a device's matrix product rate that were measured on one H100 at the shape of
Qwen3-1.7B (benchmarks/results/gpu-h100.json, the least of whole batches): LoRA trainings of batches
of 4 rows reach 18 to 26 %, shared scoring 15 to 31 %, proposals 4 %."""

CONTEXT = 500_000_000
"""Bytes of a device that CUDA takes for itself."""
_RESERVED = 1.15
# What PyTorch held for what it used, at most, in the trainings of gpu-h100.json: 1.14.

CHARACTERS_PER_TOKEN = 3.5
"""Of a large vocabulary on chat and JSON: assumed, on the low side, for tokens not too few."""

_TRAIN_PROPOSER: tuple[SplitName, ...] = ("train_proposer",)
_TRAIN_VERIFIER: tuple[SplitName, ...] = ("train_verifier",)
_TEST: tuple[SplitName, ...] = ("test",)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One line of a plan."""

    stage: str
    """As the run names it."""
    what: str
    """What of it: a recipe, a model's role, a verifier."""
    rows: int
    """Episodes, training rows, proposals, scores."""
    bound: Bound
    tokens: int | None = None
    """That models read or write, all epochs; None without a model."""
    flops: float | None = None
    memory: dict[str, int] | None = None
    """Bytes at the worst moment, by what they are for; `other models` are loaded beside."""
    seconds: float | None = None
    """At the stated utilisation."""
    fits: Fit | None = None

    @property
    def total_memory(self) -> int:
        """Bytes; 0 without a model."""
        return sum((self.memory or {}).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will take."""

    preset: str
    bases: dict[str, str]
    """By role, with where its shape is from."""
    device: Device
    utilisation: float
    """Of trainings."""
    counted: str
    """What rows and tokens are from, in words."""
    stages: list[PlannedStage]

    @property
    def fits(self) -> bool:
        """Whether every stage fits the device."""
        return all(stage.fits != "no" for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Of all stages with a model."""
        return sum(stage.seconds or 0.0 for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        shares = {"training": self.utilisation, "scoring": SCORING, "writing": WRITING}
        return {
            "preset": self.preset,
            "bases": self.bases,
            "device": asdict(self.device),
            "utilisation": shares,
            "counted": self.counted,
            "fits": self.fits,
            "hours": self.seconds / 3600,
            "stages": [
                asdict(stage) | {"total_memory": stage.total_memory} for stage in self.stages
            ],
        }


def plan_run(
    preset: Preset,
    *,
    seed: int,
    utilisation: float | None = None,
    device_memory: int | None = None,
    device_rate: float | None = None,
) -> Plan:
    """The plan of a run; loads no weights and downloads nothing.

    Args:
        preset: What is to be run, as the user changed it.
        seed: Of the run.
        utilisation: Share of the device's rate that trainings reach; None for what was measured.
        device_memory: Bytes; None for the device's own, or 80 GB.
        device_rate: FLOPs a second of a matrix product; None for the device's, or an H100's.

    Raises:
        ConfigError: The shape of a base is not known here.
        ModelError: It is no Qwen3.
    """
    recipes = {
        name: RecipeSettings.read(preset.configs, name)
        for name in ("sft_proposer", "train_verifier", "dpo_proposer", "train_reward_model")
    }
    device = find_device(device_memory, device_rate, on_cpu=recipes["sft_proposer"].use_cpu)
    shapes = {
        role: config_of(_path(base))
        for role, base in (
            ("cheap", preset.cheap_base),
            ("strong", preset.strong_base),
            ("verifier", preset.verifier_base),
        )
    }
    renderer, characters, tokens_from = _renderer(preset)
    work = plan_workload(preset, seed, planned_episodes(preset, seed), renderer, characters)
    total = f"{preset.num_tasks:,} in-family tasks"
    tasks = f"all {total}" if work.exact else f"the first {work.num_tasks:,} of {total}"
    writer = _Writer(
        preset=preset,
        recipes=recipes,
        configs={role: config for role, (config, _) in shapes.items()},
        work=work,
        device=device,
        utilisation=TRAINING if utilisation is None else utilisation,
    )
    bases = {"cheap": preset.cheap_base, "strong": preset.strong_base}
    bases["verifier"] = preset.verifier_base
    return Plan(
        preset=preset.name,
        bases={role: f"{base} (shape: {shapes[role][1]})" for role, base in bases.items()},
        device=device,
        utilisation=writer.utilisation,
        counted=f"{tasks} rolled out; tokens {tokens_from}; turns as long as the expert's",
        stages=writer.write(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSettings:
    """What a recipe's config says of its cost."""

    batch_size: int
    accumulation: int
    epochs: float
    max_steps: int
    """-1: as many as the epochs have."""
    lora_r: int | None
    load_in_4bit: bool
    activation_checkpointing: bool
    use_cpu: bool

    @classmethod
    def read(cls, preset: str, recipe: str) -> RecipeSettings:
        """Of a preset's config; transformers' defaults where it says nothing."""
        path = programs_root() / "recipes" / "configs" / preset / f"{recipe}.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls(
            batch_size=values.get("per_device_train_batch_size", 8),
            accumulation=values.get("gradient_accumulation_steps", 1),
            epochs=values.get("num_train_epochs", 3),
            max_steps=values.get("max_steps", -1),
            lora_r=values.get("lora_r", 16) if values.get("use_peft") else None,
            load_in_4bit=bool(values.get("load_in_4bit")),
            activation_checkpointing=bool(values.get("activation_checkpointing")),
            use_cpu=bool(values.get("use_cpu")),
        )

    def passes(self, num_rows: float) -> float:
        """How often the data set is gone through."""
        if self.max_steps < 0:
            return self.epochs
        return self.max_steps * self.batch_size * self.accumulation / max(1.0, num_rows)


def _path(base: str) -> str:
    return model_path(base) if base.startswith(BUILTIN) else base


def _renderer(preset: Preset) -> tuple[Renderer, float | None, str]:
    """A renderer, characters of a token where it is not the run's own, and that in words."""
    catalogue = cast(CatalogueMode, preset.catalogue)
    tokenizer = tokenizer_at_hand(_path(preset.cheap_base))
    if tokenizer is not None:
        return Renderer(tokenizer=tokenizer, catalogue=catalogue), None, "by the base's tokenizer"
    words = f"at {CHARACTERS_PER_TOKEN} characters each (assumed: the base's tokenizer is not here)"
    stand_in = load_tokenizer(model_path("builtin:1m"))
    return Renderer(tokenizer=stand_in, catalogue=catalogue), CHARACTERS_PER_TOKEN, words


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Writes a plan's stages."""

    preset: Preset
    recipes: dict[str, RecipeSettings]
    configs: dict[str, PreTrainedConfig]
    """By role: cheap, strong, verifier."""
    work: Workload
    device: Device
    utilisation: float
    stages: list[PlannedStage] = field(default_factory=list)

    @property
    def counted(self) -> Bound:
        """Of rows that depend on no model."""
        return "exact" if self.work.exact else "about"

    def write(self) -> list[PlannedStage]:
        """All stages, in the order of `Run.execute`."""
        preset, work = self.preset, self.work
        self.plain("rollouts", "episodes", work.total(SPLITS, lambda r: 1.0), self.counted)
        num_sft = work.total(_TRAIN_PROPOSER, lambda r: len(r.sft))
        self.plain("build sft rows", "rows", num_sft, self.counted)
        for role in ("strong", "cheap"):
            self.train("train cheap and strong", "sft_proposer", role, role, num_sft, self.counted)
        self.propose("cheap proposes", "cheap", (*_TRAIN_VERIFIER, *EVALUATED), preset.num_samples)
        self.propose("strong proposes", "strong", EVALUATED, 1, ("cheap",), CHUNK_ROLLOUTS)
        self.judge("strong_judge", "cheap")
        num_verifier = preset.num_samples * work.total(_TRAIN_VERIFIER, lambda r: len(r.distinct))
        num_pairs = self.num_pairs(preset.pair_strategies)
        num_reward = self.num_pairs(REWARD_STRATEGIES)
        name = "mine pairs and verifier rows"
        for what, rows in (
            ("verifier", num_verifier), ("preferences", num_pairs), ("reward", num_reward),
        ):  # fmt: skip
            self.plain(name, what, rows, "at most")
        name = "train verifier, DPO proposer and reward model"
        self.train(name, "train_verifier", "verifier", "verifier", num_verifier, "at most")
        self.train(name, "dpo_proposer", "cheap_dpo", "cheap", num_pairs, "at most")
        self.train(name, "train_reward_model", "reward_model", "verifier", num_reward, "at most")
        self.propose("DPO proposer proposes", "cheap_dpo", EVALUATED, 1)
        self.rank("cheap", ("cheap",))
        self.rank("strong", ("cheap", "cheap"))
        for key, role in JUDGED:
            if key != "strong_judge":
                self.judge(key, role)
        self.plain("calibrate", "gates", sum(s.gated for s in SYSTEMS.values()), "exact")
        self.live()
        return self.stages

    def num_pairs(self, strategies: Sequence[str]) -> float:
        """At most: each strategy once at each step, capped by task."""
        steps: dict[str, int] = {}
        weight: dict[str, float] = {}
        for rollout in self.work.rollouts:
            steps[rollout.task_id] = steps.get(rollout.task_id, 0) + len(rollout.distinct)
            weight.setdefault(rollout.task_id, rollout.weight["train_verifier"])
        cap = self.preset.max_pairs_per_task
        return len(strategies) * sum(weight[task] * min(cap, n) for task, n in steps.items())

    def plain(self, stage: str, what: str, rows: float, bound: Bound) -> None:
        """A stage without a model."""
        self.stages.append(PlannedStage(stage=stage, what=what, rows=round(rows), bound=bound))

    def train(
        self, stage: str, recipe: str, role: str, shape: str, num_rows: float, bound: Bound
    ) -> None:
        """A recipe's run."""
        settings, config = self.recipes[recipe], self.configs[shape]
        paired = recipe in ("dpo_proposer", "train_reward_model")
        classifies = recipe in ("train_verifier", "train_reward_model")
        head: Head = "labels" if classifies else "fused"
        is_sft = recipe == "sft_proposer"
        lengths, turns, weights = self.rows(is_sft)
        work = Work.of(config, lora_r=settings.lora_r, classifier=classifies)
        flops = work.training(lengths, turns)
        if recipe == "dpo_proposer":  # and once forward through the reference
            flops = flops + work.forward(0 * lengths, lengths, turns)
        sequences = (2 if paired else 1) * num_rows * settings.passes(num_rows)
        memory = training_memory(
            config,
            batch_size=(2 if paired else 1) * settings.batch_size,
            length=self.work.longest_row,
            lora_r=settings.lora_r,
            load_in_4bit=settings.load_in_4bit,
            activation_checkpointing=settings.activation_checkpointing,
            head=head,
        )
        self.add(
            stage,
            f"{recipe}: {role}",
            num_rows,
            bound,
            sequences * _mean(lengths, weights),
            sequences * _mean(flops, weights),
            memory,
            self.utilisation,
        )

    def rows(self, is_sft: bool) -> tuple[IntArray, IntArray, IntArray]:
        """Tokens of each row that is trained on, those of its turn, and its weight."""
        split: SplitName = "train_proposer" if is_sft else "train_verifier"
        lengths, turns, weights = [], [], []
        for rollout in self.work.rollouts:
            chosen = rollout.sft if is_sft else rollout.distinct
            lengths.append((rollout.prompts + rollout.turns)[chosen])
            turns.append(rollout.turns[chosen])
            weights.append(np.full(len(chosen), rollout.weight[split]))
        return np.concatenate(lengths), np.concatenate(turns), np.concatenate(weights)

    def propose(
        self,
        stage: str,
        role: str,
        splits: Collection[SplitName],
        num_samples: int,
        beside: Sequence[str] = (),
        num_kept: int = 0,
    ) -> None:
        """A model writes at every step of some splits, and keeps what it read of some rollouts."""
        config = self.config(role)
        work = Work.of(config, lora_r=None)
        steps = self.work.steps(*splits)

        def tokens(rollout: PlannedRollout) -> float:
            return float(rollout.prompts.max() + num_samples * rollout.turns.sum())

        def flops(rollout: PlannedRollout) -> float:
            return _once(work, rollout) + num_samples * _written(work, rollout)

        memory = writing_memory(
            config,
            dtype=cast(Dtype, self.preset.dtype),
            longest_prompt=self.work.longest_prompt,
            max_new_tokens=self.preset.max_new_tokens,
            num_samples=num_samples,
            num_prompts=round(steps),
        )
        self.add(
            stage,
            role,
            num_samples * steps,
            self.counted,
            self.work.total(splits, tokens),
            self.work.total(splits, flops),
            memory,
            WRITING,
            beside,
            self.kept(role, num_kept),
        )

    def kept(self, role: str, num_conversations: float) -> int:
        """Memory of what models of at most a role's size keep of so many conversations."""
        return kept_memory(
            self.config(role),
            dtype=cast(Dtype, self.preset.dtype),
            num_tokens=round(num_conversations * self.work.longest_prompt),
            device_memory=None if self.device.name == "CPU" else self.device.memory,
        )

    def rank(self, role: str, beside: Sequence[str]) -> None:
        """A model scores the candidates at the steps of some test tasks."""
        workload, config = self.work, self.config(role)
        work = Work.of(config, lora_r=None)
        nodes = round(workload.candidates_per_step * workload.tokens_per_candidate)
        steps = workload.ranked_steps
        in_test = max(1.0, workload.steps("test"))
        # The rollouts' own tokens, in the share that their steps are of the split's.
        share = steps / in_test
        read = workload.total(_TEST, lambda r: _once(work, r)) * share
        prompt = _mean_prompt(workload)
        ends = np.array([nodes])
        scored = work.forward(np.array([prompt]), prompt + ends, ends)[0] * steps
        tokens = workload.total(_TEST, lambda r: float(r.prompts.max())) * share + nodes * steps
        memory = self.scored(config, nodes, steps, classifier=False)
        bound: Bound = self.counted
        self.add(
            "cheap and strong rank", role, steps, bound, tokens, read + scored, memory, SCORING,
            beside,
        )  # fmt: skip

    def judge(self, key: str, role: str) -> None:
        """A verifier on the proposals of a role; the strong model has read when it proposed."""
        num, steps = num_judged(key, role), self.work.steps(*EVALUATED)
        shape = {"classifier": "verifier", "reward_model": "verifier", "strong_judge": "strong"}
        if key not in shape:
            self.plain("verifiers judge", f"{key} on {role}", num * steps, self.counted)
            return
        config, classifies = self.configs[shape[key]], key != "strong_judge"
        work = Work.of(config, lora_r=None, classifier=classifies)

        def tokens(rollout: PlannedRollout) -> float:
            read = rollout.prompts.max() if classifies else 0
            return float(read + num * rollout.turns.sum())

        def flops(rollout: PlannedRollout) -> float:
            read = _once(work, rollout) if classifies else 0.0
            return read + num * _written(work, rollout)

        memory = self.scored(config, round(self.work.mean_turn), steps, classifier=classifies)
        loaded = ["cheap", "cheap", "strong", "verifier", "verifier"]
        loaded.remove(shape[key])
        self.add(
            "verifiers judge" if classifies else "strong proposes",
            f"{key} on {role}",
            num * steps,
            self.counted,
            self.work.total(EVALUATED, tokens),
            self.work.total(EVALUATED, flops),
            memory,
            SCORING,
            loaded if classifies else ("cheap",),
            0 if classifies else self.kept("strong", CHUNK_ROLLOUTS),
        )

    def live(self) -> None:
        """Whole episodes of every system, if nothing that two of them ask is remembered.

        Each prompt is read from the start, as where no room is left to keep what was read.
        """
        workload, preset = self.work, self.preset
        num_tasks = min(preset.num_live_tasks, workload.test_tasks)
        inside = [r for r in workload.rollouts if not r.out_of_family]
        tokens = flops = 0.0
        for system in SYSTEMS.values():
            asked = []
            if system.proposer is not None:
                asked.append((system.proposer, max(system.num_proposals, system.num_compared)))
            if system.verifier in ("classifier", "reward_model"):
                asked.append(("verifier", system.num_proposals))
            if system.proposer is None or system.fallback:
                asked.append(("strong", 1))
            for role, num in asked:
                work = Work.of(self.config(role), lora_r=None, classifier=role == "verifier")
                for rollout in inside:
                    read = work.forward(0 * rollout.prompts, rollout.prompts, 0 * rollout.prompts)
                    flops += float(read.sum()) + num * _written(work, rollout)
                    tokens += float(rollout.prompts.sum() + num * rollout.turns.sum())
        share = num_tasks / len(inside)
        rows = min(len(inside), round(num_tasks)) * preset.num_samples
        written = {
            role: writing_memory(
                self.config(role),
                dtype=cast(Dtype, preset.dtype),
                longest_prompt=workload.longest_prompt,
                max_new_tokens=preset.max_new_tokens,
                num_samples=preset.num_samples if role == "cheap" else 1,
                num_prompts=rows,
            )
            for role in ("cheap", "strong")
        }
        worst = max(written, key=lambda role: written[role].total - written[role].weights)
        loaded = ["cheap", "cheap", "strong", "verifier", "verifier"]
        loaded.remove(worst)
        self.add(
            "live episodes",
            f"{len(SYSTEMS)} systems",
            len(SYSTEMS) * num_tasks,
            self.counted,
            tokens * share,
            flops * share,
            written[worst],
            WRITING,
            loaded,
            self.kept("strong", NUM_KEEPING * min(num_tasks, LOCKSTEP_EPISODES)),
        )

    def config(self, role: str) -> PreTrainedConfig:
        """Shape of a role's model."""
        return self.configs["cheap" if role == "cheap_dpo" else role]

    def scored(
        self, config: PreTrainedConfig, nodes: int, steps: float, *, classifier: bool
    ) -> InferenceMemory:
        """Memory of scoring so many tokens at a step."""
        return scoring_memory(
            config,
            dtype=cast(Dtype, self.preset.dtype),
            longest_prompt=self.work.longest_prompt,
            num_nodes=nodes,
            num_prompts=round(steps),
            classifier=classifier,
            device_memory=None if self.device.name == "CPU" else self.device.memory,
        )

    def add(
        self,
        stage: str,
        what: str,
        rows: float,
        bound: Bound,
        tokens: float,
        flops: float,
        memory: TrainingMemory | InferenceMemory,
        share: float,
        beside: Sequence[str] = (),
        kept: int = 0,
    ) -> None:
        """A stage with a model.

        `beside` are the shapes of others that are loaded meanwhile, `kept` the bytes of what was
        read in earlier calls.
        """
        parts = {name.replace("_", " "): size for name, size in asdict(memory).items()}
        if beside:
            parts["other models"] = sum(self._loaded(shape) for shape in beside)
        if kept:
            parts["kept prefixes"] = kept
        total = sum(parts.values())
        self.stages.append(
            PlannedStage(
                stage=stage,
                what=what,
                rows=round(rows),
                bound=bound,
                tokens=round(tokens),
                flops=flops,
                memory=parts,
                seconds=flops / (self.device.rate * share),
                fits=fit_of(total, self.device.memory),
            )
        )

    def _loaded(self, shape: str) -> int:
        memory = self.scored(self.configs[shape], 1, 1, classifier=True)
        return memory.weights


def fit_of(needed: int, memory: int) -> Fit:
    """Whether so many bytes of tensors fit a device."""
    if needed + CONTEXT > memory:
        return "no"
    return "yes" if _RESERVED * needed + CONTEXT <= memory else "tight"


def _mean(values: Any, weights: Any) -> float:
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else 0.0


def _mean_prompt(workload: Workload) -> int:
    return round(float(np.concatenate([r.prompts for r in workload.rollouts]).mean()))


def _once(work: Work, rollout: PlannedRollout) -> float:
    """FLOPs of a rollout's conversation, read once up to its last prompt."""
    longest = rollout.prompts.max(keepdims=True)
    return float(work.forward(0 * longest, longest, 0 * longest)[0])


def _written(work: Work, rollout: PlannedRollout) -> float:
    """FLOPs of one turn after each prompt; its last token is not fed."""
    return float(
        work.forward(rollout.prompts, rollout.prompts + rollout.turns - 1, rollout.turns).sum()
    )
