"""One start, many methods, one price: what each teaches, on held-out tasks, of one run of a preset.

The run is read only. Its SFT proposer is the start; rows come from its `train_verifier` tasks,
which that proposer has not been trained on. They are called `train_proposer` here, since it is the
proposer that learns from them and no verifier is trained. Every stage is a folder that is made
whole or not at all, so that a comparison killed anywhere goes on where it was.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml

from specact_rl.envs.collect import plan_episodes, policy_name
from specact_rl.errors import ConfigError
from specact_rl.eval.collect import collect_proposals
from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.live import LiveEpisode, live_in_shards
from specact_rl.eval.method_report import MethodRun, Spent
from specact_rl.eval.model_policies import ModelPolicies
from specact_rl.mining.build_rollouts import ROLLOUTS_FILE, read_rollouts
from specact_rl.mining.build_rows import build_preferences, build_sft
from specact_rl.mining.build_unpaired import build_kto, build_weighted
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.mining.data_sets import DataSource
from specact_rl.models.chat_templates import OWN
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import load_causal_lm, model_id
from specact_rl.models.recipe_runs import TRAIN_LOG
from specact_rl.models.reward_weights import rewards_of, row_weights
from specact_rl.models.training import TokenRow, token_rows
from specact_rl.models.trajectories import side_rows, trajectory_row
from specact_rl.models.work import Work
from specact_rl.pipeline.artifacts import Artifacts, draw_tasks
from specact_rl.pipeline.episodes import planned_episodes
from specact_rl.pipeline.launching import Training, launch
from specact_rl.pipeline.methods.budget import affordable_steps, proposal_flops, row_flops
from specact_rl.pipeline.methods.catalogue import START, Method, find_method
from specact_rl.policy.live import LiveSystem
from specact_rl.policy.systems import SYSTEMS
from specact_rl.programs import programs_root
from specact_rl.rendering import Renderer
from specact_rl.store import (
    content_hash,
    folder_hash,
    open_stage,
    read_json,
    read_manifest,
    read_shards,
    read_table,
    read_training_rows,
    write_json,
    write_table,
)
from specact_rl.types import Proposal, Rollout, SplitName

logger = logging.getLogger(__name__)

LEARNT_FROM: SplitName = "train_verifier"
"""Of the run's splits, whose tasks the methods learn from."""
TRAINED_ON: SplitName = "train_proposer"
"""What that split is called in a comparison."""
MAX_PAIRS_PER_TASK = 8
PROPOSER_ALONE = "B"
"""The system in which a proposer acts alone."""
_PLACES = ("model_name_or_path", "dataset_dir", "output_dir")


Sampled = Literal["proposals", "episodes"]
"""What the start has written for a data set: proposals at the logged steps, or whole episodes that
stand beside the logged ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Rows that methods learn from."""

    build: Callable[..., Any]
    options: Mapping[str, Any]
    needs: Sampled | None = None
    """None where nothing is needed of the start."""


def _pairs(strategy: str, needs: Sampled) -> DataSet:
    return DataSet(
        build=build_preferences,
        options={
            "strategies": (strategy,),
            "max_per_task": MAX_PAIRS_PER_TASK,
            # Pair precision by cost-to-go is of single steps.
            "in_environment": strategy != "outcome",
        },
        needs=needs,
    )


DATA_SETS: dict[str, DataSet] = {
    "expert": DataSet(build=build_sft, options={"target": "reference"}),
    "judged": DataSet(build=build_weighted, options={}, needs="proposals"),
    "labelled": DataSet(build=build_kto, options={}, needs="proposals"),
    "same_prefix": _pairs("same_prefix", "proposals"),
    "on_policy": _pairs("on_policy", "proposals"),
    "hard_negative": _pairs("hard_negative", "proposals"),
    "divergence": _pairs("divergence", "episodes"),
    "outcome": _pairs("outcome", "episodes"),
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The methods on one run of a preset."""

    run: Artifacts
    """With rollouts, the SFT proposer and its proposals on `LEARNT_FROM`."""
    out: Path
    budget: float
    """FLOPs of a method, sampling included."""
    num_step_tasks: int
    """Held-out tasks at whose logged steps each method proposes."""
    num_live_tasks: int
    """Held-out tasks that each method plays; among the others."""
    evaluated: SplitName = "test"
    """Split of those tasks; calibration while settings are chosen."""

    @property
    def start(self) -> Path:
        """Checkpoint that all methods start from."""
        return self.run.folders.model("cheap")

    @cached_property
    def renderer(self) -> Renderer:
        """Of the start."""
        return self.run.renderer(self.start)

    @cached_property
    def work(self) -> Work:
        """What a proposer computes."""
        config = load_causal_lm(self.start, "float32").config
        return Work.of(config, lora_r=None)

    def model_folder(self, name: str) -> Path:
        """Checkpoint of a method, or of the start."""
        return self.start if name == START else self.out / "models" / name

    def logged(self) -> Path:
        """The run's rollouts of the tasks that are learnt from."""
        return self._rollouts("logged", played=False)

    def played(self) -> Path:
        """The same, and one sampled episode of the start on each task."""
        return self._rollouts("played", played=True)

    def _rollouts(self, name: str, *, played: bool) -> Path:
        folder = self.out / name
        acting = self.start_policies.arguments if played else {}
        with open_stage(
            folder,
            "comparison_rollouts",
            inputs={"rollouts": self.run.folders.rollouts},
            arguments={"split": LEARNT_FROM, **acting},
            seed=self.run.seed,
            overwrite=True,
        ) as stage:
            if not stage.done:
                rollouts = self.run.rollouts(LEARNT_FROM)
                if played:
                    rollouts = sorted(
                        [*rollouts, *self._play({r.task_id for r in rollouts})],
                        key=lambda r: (r.task_id, r.rollout_id),
                    )
                write_table(
                    stage.path / ROLLOUTS_FILE,
                    (replace(rollout, split=TRAINED_ON) for rollout in rollouts),
                    together=lambda rollout: rollout.task_id,
                )
                stage.counts |= {
                    "rollouts": len(rollouts),
                    "tasks": len({r.task_id for r in rollouts}),
                    "successes": sum(r.success is True for r in rollouts),
                }
        return folder

    @cached_property
    def start_policies(self) -> ModelPolicies:
        """The start, drawing its actions."""
        return ModelPolicies.load(
            [self._start_policy],
            temperature=self.run.preset.temperature,
            max_new_tokens=self.run.preset.max_new_tokens,
        )

    @property
    def _start_policy(self) -> str:
        return f"model:{self.start}"

    def _play(self, tasks: set[str]) -> list[Rollout]:
        seeds = sorted({plan.seed for plan in planned_episodes(self.run.preset, self.run.seed)})
        plans = [
            plan
            for plan in plan_episodes([self._start_policy], seeds)
            if plan.environment_at_start().task_id in tasks
        ]
        logger.info("the start plays %d tasks", len(plans))
        return self.start_policies.roll_out(plans)

    def proposals(self) -> Path:
        """The start's proposals at the logged steps that are learnt from, as the run has them."""
        folder = self.out / "proposals"
        source = self.run.folders.proposals("cheap")
        with open_stage(
            folder,
            "comparison_proposals",
            inputs={"proposals": source, "rollouts": self.logged()},
            arguments={},
            overwrite=True,
        ) as stage:
            if not stage.done:
                tasks = {r.task_id for r in read_rollouts(self.logged(), [TRAINED_ON])}
                rows = [
                    p for p in read_table(source / PROPOSALS_FILE, Proposal) if p.task_id in tasks
                ]
                if not rows:
                    raise ConfigError(f"{source} has no proposal on a {LEARNT_FROM} task")
                write_table(stage.path / PROPOSALS_FILE, rows)
                stage.counts["proposals"] = len(rows)
        return folder

    def data(self, name: str) -> Path:
        """Training rows, built if they are not there."""
        made, folder = DATA_SETS[name], self.out / "data" / name
        options = dict(made.options)
        if name == "on_policy":
            options["model_id"] = model_id(self.start, self.renderer)
        source = DataSource(
            rollouts_dir=self.played() if made.needs == "episodes" else self.logged(),
            proposals_dirs=[self.proposals()] if made.needs == "proposals" else [],
            out_dir=folder,
            renderer=self.renderer,
            split=TRAINED_ON,
            seed=self.run.seed,
            overwrite=True,
        )
        made.build(source, **options)
        return folder

    def sampling_flops(self, sampled: Sampled | None) -> int:
        """FLOPs of what the start wrote for a data set.

        All proposals at the steps, or each token of all episodes once; not what was drawn beside
        them and thrown away.
        """
        size = self.work.layers
        size = replace(size, num_params=size.num_params + self.work.head)
        if sampled == "proposals":
            return proposal_flops(size, read_table(self.proposals() / PROPOSALS_FILE, Proposal))
        if sampled == "episodes":
            return sum(size.flops(0, len(row.ids)) for row in self._own_episodes())
        return 0

    def settings(self, method: Method) -> dict[str, Any]:
        """The recipe's settings: config, then the method's own."""
        path = self._config(method)
        return {**yaml.safe_load(path.read_text(encoding="utf-8")), **method.options}

    def _config(self, method: Method) -> Path:
        folder = programs_root() / "recipes" / "configs" / self.run.preset.configs
        return folder / f"{method.config}.yaml"

    def sequences(self, method: Method) -> list[list[TokenRow]]:
        """What a method trains on, as tokens: one sequence a row, or both sides of a pair."""
        if method.recipe == "grpo_proposer":  # writes its own: the start's are its first ones
            return [[row] for row in self._own_episodes()]
        rows, settings = read_training_rows(self.data(method.data), "train"), self.settings(method)
        if method.recipe == "dpo_proposer":
            return side_rows(rows, self.renderer, settings.get("level", "step"))
        if method.recipe == "reward_weighted_sft":
            weights = row_weights(
                rows,
                rewards_of(rows),
                settings["mode"],
                temperature=float(settings["temperature"]),
                min_reward=float(settings["min_reward"]),
            )
            rows = [rows[i] for i in weights.rows]
        return token_rows(rows, self.renderer, ["completion"])

    def _own_episodes(self) -> list[TokenRow]:
        """The start's episodes on the tasks that are learnt from."""
        own = policy_name(self._start_policy)
        return [
            trajectory_row(
                self.renderer.prompt_fields(rollout.step(0)),
                rollout.messages[rollout.steps[0].message_index : end + 1],
                self.renderer,
                rollout.rollout_id,
            )
            for rollout in read_rollouts(self.played(), [TRAINED_ON])
            if rollout.policy == own
            for end in [rollout.steps[-1].message_index]
        ]

    def planned(self, method: Method) -> Spent:
        """Steps that the budget buys, and what they cost by the mean over the rows."""
        rows = self.sequences(method)
        each = row_flops(self.work, rows, method.recipe)
        batch = int(self.settings(method)["per_device_train_batch_size"])
        sampling = self.sampling_flops(DATA_SETS[method.data].needs)
        steps = affordable_steps(self.budget, sampling, batch * float(each.mean()))
        tokens = sum(_num_counted(method, sequence) for row in rows for sequence in row)
        return Spent(
            num_rows=len(rows),
            num_steps=steps,
            rows_seen=steps * batch,
            sampling_flops=float(sampling),
            training_flops=steps * batch * float(each.mean()),
            flops_per_counted_token=float(each.sum()) / tokens,
        )

    def train(self, name: str) -> Spent:
        """Train a method for its price; what is there is not trained again.

        A checkpoint that was made with other settings is made anew.
        """
        method = find_method(name)
        planned = self.planned(method)
        arguments = {
            **method.options,
            "model_name_or_path": str(self.start),
            "dataset_dir": str(self.data(method.data)),
            "output_dir": str(self.model_folder(name)),
            "seed": str(self.run.seed),
            "max_steps": str(planned.num_steps),
            "warmup_steps": "0.1",
            "save_steps": "20",
            **({} if torch.cuda.is_available() else {"use_cpu": "true"}),
        }
        template = self.run.preset.chat_template  # which the start has
        if self.settings(method).get("chat_template", OWN) != template:
            arguments["chat_template"] = template
        identity = content_hash(
            [
                self.settings(method),
                {k: v for k, v in arguments.items() if k not in _PLACES},
                folder_hash(self.data(method.data)),
                model_id(self.start, self.renderer),
            ]
        )
        path = self._spent(name)
        if not (path.is_file() and read_json(path)["identity"] == identity):
            self._launch(method, arguments, identity)
            log = read_json(self.model_folder(name) / TRAIN_LOG)
            taken = planned.flops_per_counted_token * log["num_tokens"]
            spent = replace(planned, training_flops=taken, seconds=log["seconds"])
            write_json(path, {"identity": identity, "spent": asdict(spent)})
        return self.spent(name)

    def spent(self, name: str) -> Spent:
        """What a trained method took."""
        return Spent(**read_json(self._spent(name))["spent"])

    def _spent(self, name: str) -> Path:
        return self.out / "spent" / f"{name}.json"

    def _launch(self, method: Method, arguments: dict[str, str], identity: str) -> None:
        folder = self.model_folder(method.name)
        started = folder.with_name(f"{folder.name}.identity")
        if not started.is_file() or started.read_text(encoding="utf-8") != identity:
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            started.write_text(identity, encoding="utf-8")
        logger.info("%s: %s steps", method.name, arguments["max_steps"])
        training = Training(
            recipe=method.recipe,
            config=self._config(method),
            arguments=arguments,
            log=self.out / "logs" / f"{method.name}.log",
        )
        launch([training])

    def tasks(self, count: int) -> list[str]:
        """Held-out tasks, by lot; fewer are among more."""
        return draw_tasks(self.run.rollouts(self.evaluated), count, self.run.seed)

    def evaluate(self, name: str) -> None:
        """Greedy proposals at logged steps, and whole episodes, on the held-out tasks."""
        folder = self.model_folder(name)
        model = LanguageModel.of(
            load_causal_lm(folder, "float32"), folder, self.run.renderer(folder)
        )
        sampling = Sampling(max_new_tokens=self.run.preset.max_new_tokens, seed=self.run.seed)
        collect_proposals(
            self.run.folders.rollouts,
            self._outcomes(name),
            model,
            (self.evaluated,),
            sampling=sampling,
            tasks=self.tasks(self.num_step_tasks),
        )
        tasks = self.tasks(self.num_live_tasks)
        with open_stage(
            self._live(name),
            "comparison_live",
            inputs={},
            arguments={"tasks": tasks, "model": model.model_id, "sampling": asdict(sampling)},
            seed=self.run.seed,
            overwrite=True,
        ) as stage:
            if not stage.done:
                acting = model.keeping_prefixes()
                system = LiveSystem(
                    system=SYSTEMS[PROPOSER_ALONE],
                    strong=acting,
                    proposer=acting,
                    sampling=sampling,
                )
                live_in_shards(stage.path, system, tasks)

    def _outcomes(self, name: str) -> Path:
        return self.out / "outcomes" / f"{name}--{self.evaluated}"

    def _live(self, name: str) -> Path:
        return self.out / "live" / f"{name}--{self.evaluated}"

    def is_measured(self, name: str) -> bool:
        """Whether a method has been trained and evaluated."""
        files = [folder / "manifest.json" for folder in (self._outcomes(name), self._live(name))]
        files += [] if name == START else [self._spent(name)]
        return all(path.is_file() for path in files)

    @cached_property
    def table(self) -> StepTable:
        """The logged steps of the held-out tasks."""
        tasks = set(self.tasks(self.num_step_tasks))
        return StepTable.of(r for r in self.run.rollouts(self.evaluated) if r.task_id in tasks)

    def measured(self, name: str) -> MethodRun:
        """What came out of a method that has been evaluated."""
        steps = {step.step_id for step in self.table.steps}
        found = read_table(self._outcomes(name) / PROPOSALS_FILE, Proposal)
        columns = ProposalColumns.of(self.table, [p for p in found if p.step_id in steps])
        episodes = sorted(read_shards(self._live(name), LiveEpisode), key=lambda e: e.task_id)
        return MethodRun(
            name=name,
            title="the start itself" if name == START else find_method(name).title,
            spent=None if name == START else self.spent(name),
            task_ids=self.table.task_ids,
            correct={
                **{level: reached[:, 0] for level, reached in columns.levels.items()},
                "acceptable": columns.acceptable[:, 0] == 1.0,
                "parsed": columns.parsed[:, 0],
            },
            episodes=episodes,
            pairs=None if name == START else self._pairs_report(find_method(name).data),
        )

    def _pairs_report(self, data: str) -> dict[str, Any] | None:
        """Of a preference data set, what is known of its pairs."""
        folder = self.out / "data" / data
        report = read_json(folder / "report.json")
        if "length_gaps" not in report:
            return None
        counts = read_manifest(folder).counts
        precision = cast(dict[str, Any], report.get("precision", {})).get(data, {})
        return {
            "num_pairs": counts["train"],
            "chosen_is_the_experts": counts.get(f"{data}:chosen_reference", 0),
            "rejected_unparsable": counts.get(f"{data}:rejected_unparsable", 0),
            "precision": precision.get("better"),
        }


def _num_counted(method: Method, sequence: TokenRow) -> int:
    """Tokens of a sequence as train_log.json counts them."""
    if method.recipe == "grpo_proposer":  # TRL leaves out what tools answered
        return len(sequence.prompt) + len(sequence.trained)
    return len(sequence.ids)
