"""What a run will take, said before anything is downloaded or loaded: rows, FLOPs, memory, hours.

By arithmetic on the shapes of the bases, the recipes' configs and a `Workload`. Nothing here has
been measured on the run itself; memory of trainings was held against a
GPU's (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
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
from specact_rl.pipeline.episodes import EVALUATED, planned_episodes
from specact_rl.pipeline.live import NUM_KEEPING
from specact_rl.pipeline.servers import Parts, Servers, StageNames
from specact_rl.pipeline.workload import PlannedRollout, Workload, plan_workload
from specact_rl.policy.systems import num_judged
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
    server_tokens: tuple[int, int] | None = None
    """Of prompts and of answers, by which a server is paid, each request with its whole prompt;
    None where no server is asked."""
    price: float | None = None
    """US dollars for these, none of them cached; None where nobody named a price, too."""

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
    notes: tuple[str, ...] = ()
    """What servers make otherwise, or what is left out for them, a line each."""

    @property
    def price(self) -> float | None:
        """US dollars for all servers; None where none is asked, or one has no price."""
        prices = [stage.price for stage in self.stages if stage.server_tokens is not None]
        known = [price for price in prices if price is not None]
        return sum(known) if known and len(known) == len(prices) else None

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
            "notes": list(self.notes),
            "price": self.price,
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
    servers: Servers | None = None,
    assume_gpu: bool = True,
) -> Plan:
    """The plan of a run; loads no weights and downloads nothing.

    Args:
        preset: What is to be run, as the user changed it.
        seed: Of the run.
        utilisation: Share of the device's rate that trainings reach; None for what was measured.
        device_memory: Bytes; None for the device's own, or 80 GB.
        device_rate: FLOPs a second of a matrix product; None for the device's, or an H100's.
        servers: Those that the preset's bases name, with their prices; None: without. None of them
            is asked: the strong one is taken to be able to judge.
        assume_gpu: Plan a preset for a GPU for one of 80 GB where there is none; else for the CPU.

    Raises:
        ConfigError: The shape of a base is not known here.
        ModelError: It is no Qwen3.
    """
    servers = Servers.of(preset) if servers is None else servers
    recipes = {
        name: RecipeSettings.read(preset.configs, name)
        for name in ("sft_proposer", "train_verifier", "dpo_proposer", "train_reward_model")
    }
    on_cpu = recipes["sft_proposer"].use_cpu or not (assume_gpu or torch.cuda.is_available())
    device = find_device(device_memory, device_rate, on_cpu=on_cpu)
    shapes = {
        role: config_of(_path(base))
        for role, base in (
            ("cheap", preset.cheap_base),
            ("strong", preset.strong_base),
            ("verifier", preset.verifier_base),
        )
        if role not in servers.roles
    }
    renderer, characters, tokens_from = _renderer(preset, servers)
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
        servers=servers,
        parts=Parts.of(servers),
    )
    bases = {"cheap": preset.cheap_base, "strong": preset.strong_base}
    bases["verifier"] = preset.verifier_base
    return Plan(
        preset=preset.name,
        bases={
            role: f"{base} ({'server' if role in servers.roles else f'shape: {shapes[role][1]}'})"
            for role, base in bases.items()
        },
        device=device,
        utilisation=writer.utilisation,
        counted=f"{tasks} rolled out; tokens {tokens_from}; turns as long as the expert's",
        stages=writer.write(),
        notes=writer.parts.notes,
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


def _renderer(preset: Preset, servers: Servers) -> tuple[Renderer, float | None, str]:
    """A renderer, characters of a token where it is not the run's own, and that in words."""
    catalogue = cast(CatalogueMode, preset.catalogue)
    base = preset.verifier_base if servers.cheap is not None else preset.cheap_base
    tokenizer = tokenizer_at_hand(_path(base), preset.chat_template)
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
    servers: Servers
    parts: Parts
    stages: list[PlannedStage] = field(default_factory=list)

    @property
    def counted(self) -> Bound:
        """Of rows that depend on no model."""
        return "exact" if self.work.exact else "about"

    def write(self) -> list[PlannedStage]:
        """All stages, in the order of `Run.execute`."""
        preset, work, trained = self.preset, self.work, self.servers.trained
        names, has_dpo = StageNames.of(self.servers), "cheap_dpo" in self.parts.proposers
        self.plain("rollouts", "episodes", work.total(SPLITS, lambda r: 1.0), self.counted)
        num_sft = work.total(_TRAIN_PROPOSER, lambda r: len(r.sft))
        if trained:
            self.plain("build sft rows", "rows", num_sft, self.counted)
        for role in ("strong", "cheap"):
            if role in trained:
                self.train(names.fine_tuning, "sft_proposer", role, role, num_sft, self.counted)
        self.propose("cheap proposes", "cheap", (*_TRAIN_VERIFIER, *EVALUATED), preset.num_samples)
        self.propose("strong proposes", "strong", EVALUATED, 1, ("cheap",), CHUNK_ROLLOUTS)
        # What a loaded strong model has read to act it judges from; a server is asked apart.
        reads_once = "strong" in trained and ("strong_judge", "cheap") in self.parts.judged
        if reads_once:
            self.judge("strong_judge", "cheap")
        num_verifier = preset.num_samples * work.total(_TRAIN_VERIFIER, lambda r: len(r.distinct))
        num_pairs = self.num_pairs(preset.pair_strategies)
        num_reward = self.num_pairs(REWARD_STRATEGIES)
        name = "mine pairs and verifier rows"
        self.plain(name, "verifier", num_verifier, "at most")
        if has_dpo:
            self.plain(name, "preferences", num_pairs, "at most")
        self.plain(name, "reward", num_reward, "at most")
        name = names.learning_from_proposals
        self.train(name, "train_verifier", "verifier", "verifier", num_verifier, "at most")
        if has_dpo:
            self.train(name, "dpo_proposer", "cheap_dpo", "cheap", num_pairs, "at most")
        self.train(name, "train_reward_model", "reward_model", "verifier", num_reward, "at most")
        if has_dpo:
            self.propose("DPO proposer proposes", "cheap_dpo", EVALUATED, 1)
        for role in trained:
            self.rank(names.ranking, role, ("cheap",) if role == "cheap" else ("cheap", "cheap"))
        for key, role in self.parts.judged:
            if not (key == "strong_judge" and reads_once):
                self.judge(key, role)
        num_gates = sum(system.gated for system in self.parts.systems.values())
        self.plain("calibrate", "gates", num_gates, "exact")
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
        if role in self.servers.roles:
            self.ask(
                stage,
                role,
                role,
                num_samples * self.work.steps(*splits),
                num_samples * self.work.total(splits, lambda r: float(r.prompts.sum())),
                num_samples * self.work.total(splits, lambda r: float(r.turns.sum())),
            )
            return
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
            device_memory=self.gpu_memory,
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
            device_memory=self.gpu_memory,
        )

    def ask(
        self, stage: str, role: str, what: str, rows: float, read: float, written: float
    ) -> None:
        """So many requests to a role's server, with the tokens of their prompts and answers."""
        price = self.servers.roles[role].price
        self.stages.append(
            PlannedStage(
                stage=stage,
                what=what,
                rows=round(rows),
                bound=self.counted,
                tokens=round(read + written),
                server_tokens=(round(read), round(written)),
                price=None if price is None else price.dollars(round(read), 0, round(written)),
            )
        )

    def rank(self, stage: str, role: str, beside: Sequence[str]) -> None:
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
            stage, role, steps, bound, tokens, read + scored, memory, SCORING, beside,
        )  # fmt: skip

    def judge(self, key: str, role: str) -> None:
        """A verifier on the proposals of a role; the strong model has read when it proposed."""
        num, steps = num_judged(key, role), self.work.steps(*EVALUATED)
        shape = {"classifier": "verifier", "reward_model": "verifier", "strong_judge": "strong"}
        if key not in shape:
            self.plain("verifiers judge", f"{key} on {role}", num * steps, self.counted)
            return
        if shape[key] in self.servers.roles:  # asked with the prompt, the proposal and a question
            read = self.work.total(EVALUATED, lambda r: float((r.prompts + r.turns).sum()))
            of_judge = (num * steps, num * read, num * steps)
            self.ask("verifiers judge", "strong", f"{key} on {role}", *of_judge)
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
        loaded = self.loaded()
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
        workload, preset, systems = self.work, self.preset, self.parts.systems
        num_tasks = min(preset.num_live_tasks, workload.test_tasks)
        inside = [r for r in workload.rollouts if not r.out_of_family]
        share = num_tasks / len(inside)
        steps, prompts, turns = (share * sum(float(count(r)) for r in inside) for count in _COUNTS)
        asked: dict[str, float] = {}
        judged = tokens = flops = 0.0
        for system in systems.values():
            calls = []
            if system.proposer is not None:
                calls.append((system.proposer, max(system.num_proposals, system.num_compared)))
            if system.verifier in ("classifier", "reward_model"):
                calls.append(("verifier", system.num_proposals))
            if system.verifier == "strong_judge" and self.servers.judge is not None:
                judged += system.num_proposals
            if system.proposer is None or system.fallback:
                calls.append(("strong", 1))
            for role, num in calls:
                if role in self.servers.roles:
                    asked[role] = asked.get(role, 0.0) + num
                    continue
                work = Work.of(self.config(role), lora_r=None, classifier=role == "verifier")
                for rollout in inside:
                    read = work.forward(0 * rollout.prompts, rollout.prompts, 0 * rollout.prompts)
                    flops += float(read.sum()) + num * _written(work, rollout)
                    tokens += float(rollout.prompts.sum() + num * rollout.turns.sum())
        memory, shape = self.worst_live(num_tasks, len(inside))
        loaded = self.loaded()
        loaded.remove(shape)
        largest = "strong" if "strong" in self.configs else shape
        self.add(
            "live episodes",
            f"{len(systems)} systems",
            len(systems) * num_tasks,
            self.counted,
            tokens * share,
            flops * share,
            memory,
            WRITING,
            loaded,
            self.kept(largest, NUM_KEEPING * min(num_tasks, LOCKSTEP_EPISODES)),
        )
        for role, times in asked.items():
            self.ask("live episodes", role, role, times * steps, times * prompts, times * turns)
        if judged:
            of_judge = (judged * steps, judged * (prompts + turns), judged * steps)
            self.ask("live episodes", "strong", "strong_judge", *of_judge)

    def worst_live(self, num_tasks: float, num_inside: int) -> tuple[InferenceMemory, str]:
        """Memory of the model that needs most in live episodes, and its shape."""
        workload, preset = self.work, self.preset
        if not self.servers.trained:
            config = self.configs["verifier"]
            nodes = round(workload.mean_turn)
            return self.scored(config, nodes, num_tasks, classifier=True), "verifier"
        rows = min(num_inside, round(num_tasks)) * preset.num_samples
        written = {
            role: writing_memory(
                self.config(role),
                dtype=cast(Dtype, preset.dtype),
                longest_prompt=workload.longest_prompt,
                max_new_tokens=preset.max_new_tokens,
                num_samples=preset.num_samples if role == "cheap" else 1,
                num_prompts=rows,
                device_memory=self.gpu_memory,
            )
            for role in self.servers.trained
        }
        worst = max(written, key=lambda role: written[role].total - written[role].weights)
        return written[worst], worst

    def loaded(self) -> list[str]:
        """Shapes of all models that are loaded when everything is: DPO has one more of cheap's."""
        shapes = ("cheap", "cheap", "strong", "verifier", "verifier")
        return [shape for shape in shapes if shape in self.configs]

    def config(self, role: str) -> PreTrainedConfig:
        """Shape of a role's model."""
        return self.configs["cheap" if role == "cheap_dpo" else role]

    @property
    def gpu_memory(self) -> int | None:
        """Bytes of the GPU; None for a CPU."""
        return None if self.device.name == "CPU" else self.device.memory

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
            steps_per_rollout=self.work.most_steps,
            classifier=classifier,
            device_memory=self.gpu_memory,
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
        if beside := [shape for shape in beside if shape in self.configs]:
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


_COUNTS: tuple[Callable[[PlannedRollout], float], ...] = (
    lambda rollout: len(rollout.prompts),
    lambda rollout: rollout.prompts.sum(),
    lambda rollout: rollout.turns.sum(),
)
"""Steps of a rollout, and tokens of its prompts and turns."""


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
