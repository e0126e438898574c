"""A run of a preset: its stages in order.

Every stage is a folder with a manifest; one that is there and was made from the same things is
skipped, so that a run killed anywhere goes on where it was. Recipes run in a process of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from specact_rl import __version__
from specact_rl.envs.episodes import Episode
from specact_rl.errors import ConfigError
from specact_rl.eval.collect import (
    collect_judged_proposals,
    collect_proposals,
    collect_scores,
)
from specact_rl.eval.evaluate import calibrate, evaluate, run_all
from specact_rl.eval.live import LiveEpisode, live_rows
from specact_rl.eval.outcomes import num_steps
from specact_rl.eval.report import write_report
from specact_rl.eval.step_outcomes import STEPS_FILE, StepNames, write_step_outcomes
from specact_rl.mining.build_rollouts import collect_rollouts
from specact_rl.mining.build_rows import build_preferences, build_reward, build_sft, build_verifier
from specact_rl.mining.data_sets import DataSource
from specact_rl.models.language_model import LanguageModel
from specact_rl.pipeline.artifacts import Artifacts
from specact_rl.pipeline.bases import base_folder
from specact_rl.pipeline.episodes import EVALUATED, TASKS_PER_SEED, planned_episodes
from specact_rl.pipeline.folders import RESULTS_FILE, Folders
from specact_rl.pipeline.launching import Training, launch
from specact_rl.pipeline.live import run_live_systems
from specact_rl.pipeline.preflight import check_before_run
from specact_rl.pipeline.pretraining import base_sizes, pretrain_base, with_own_bases
from specact_rl.pipeline.provenance import plain_json
from specact_rl.pipeline.results import collect_results
from specact_rl.pipeline.run_cards import write_measured
from specact_rl.pipeline.servers import Servers, StageNames, check_servers
from specact_rl.policy.fitting import AUTOMATIC, COST_WEIGHT, NUM_FOLDS
from specact_rl.policy.systems import num_judged
from specact_rl.presets import Preset
from specact_rl.programs import programs_root
from specact_rl.progress import ProgressBar
from specact_rl.store import open_stage, read_json, remove_temporaries, write_json
from specact_rl.types import SplitName

logger = logging.getLogger(__name__)


def run_preset(
    preset: Preset,
    out: Path,
    *,
    seed: int,
    progress: ProgressBar,
    command: Sequence[str],
    from_scratch: bool = False,
    servers: Servers | None = None,
) -> dict[str, Any]:
    """Run a preset into a folder, or go on with the same run there.

    Args:
        preset: What to run.
        out: New, empty, or of the same run.
        seed: Of tasks, training and sampling.
        progress: Shows how far stages are.
        command: What the user typed, for the report.
        from_scratch: Pretrain the preset's tiny bases instead of taking the shipped ones.
        servers: Those that the preset's bases name, and how they are asked; None: as by default.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: The folder holds a run of another preset, seed or version, a stage cannot fit
            the device, or the preset's bases cannot be pretrained here.
        ModelError: A base cannot be had, or was trained with another template.
        ServerError: A server does not answer, before anything is trained; or failed later for good,
            when its answers up to then are kept for the next time.
    """
    servers = Servers.of(preset) if servers is None else servers
    if (seed + 1) * TASKS_PER_SEED > 10_000_000 or seed < 0:
        raise ConfigError(f"seed must be in [0, 100), got {seed!r}")
    own_bases = base_sizes(preset) if from_scratch else []
    folders = Folders(root=out)
    if not from_scratch and not (folders.evaluation / RESULTS_FILE).is_file():
        check_before_run(preset, seed, servers)
    _claim(
        folders,
        {
            "preset": asdict(preset),
            "seed": seed,
            "from_scratch": from_scratch,
            "code_version": __version__,
        },
    )
    if from_scratch:
        preset = with_own_bases(preset, folders)
    artifacts = Artifacts(
        preset=preset, seed=seed, folders=folders, servers=servers.keeping(folders)
    )
    run = Run(artifacts=artifacts, progress=progress, command=command, own_bases=own_bases)
    return run.execute()


def _claim(folders: Folders, identity: dict[str, Any]) -> None:
    """Write down what the run is, or check that the folder is of the same one."""
    identity = plain_json(identity)
    out = folders.root
    for path in (folders.identity, folders.times):
        remove_temporaries(out, path.name)
    if folders.identity.is_file():
        found = read_json(folders.identity)
        if found != identity:
            differing = sorted(k for k in identity if found.get(k) != identity[k])
            raise ConfigError(
                f"{out} holds another run (differs in {', '.join(differing)}); choose another "
                "--out, or delete the folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} must be new, empty or a run of the same preset and seed")
    write_json(folders.identity, identity)


@dataclass(slots=True, kw_only=True)
class Run:
    """The stages of one run, and how long each took."""

    artifacts: Artifacts
    progress: ProgressBar
    command: Sequence[str]
    own_bases: Sequence[str]
    """Sizes of the bases that the run pretrains, the tokenizer's first; none: shipped ones."""
    stage_times: list[dict[str, Any]] = field(default_factory=list)
    """Name, seconds and `complete` of each stage so far; see `stage`."""

    @property
    def preset(self) -> Preset:
        """What is run, with the bases that the run starts from."""
        return self.artifacts.preset

    @property
    def folders(self) -> Folders:
        """Where everything goes."""
        return self.artifacts.folders

    @property
    def seed(self) -> int:
        """Of tasks, training and sampling."""
        return self.artifacts.seed

    def execute(self) -> dict[str, Any]:
        """Every stage in order; returns what results.json holds."""
        preset, servers = self.preset, self.artifacts.servers
        names = StageNames.of(servers)
        if servers:
            with self.stage("ask servers"):
                self.check_servers()
        for size in self.own_bases:
            name = f"pretrain {size}"
            with self.stage(name), self.progress(name, 100) as advance:
                pretrain_base(size, self.preset, self.folders, self.seed, advance)
        with self.stage("rollouts"):
            self.roll_out()
        bases = {"cheap": preset.cheap_base, "strong": preset.strong_base}
        if servers.trained:
            with self.stage("build sft rows"):
                self.build(build_sft, "sft", "train_proposer", base=bases[servers.trained[0]])
            self.train(
                names.fine_tuning,
                *(
                    ("sft_proposer", role, base_folder(bases[role]), "sft")
                    for role in ("strong", "cheap")
                    if role in servers.trained
                ),
            )
        with self.stage("cheap proposes"):
            self.propose("cheap", ("train_verifier", *EVALUATED), self.preset.num_samples)
        with self.stage("strong proposes"):
            self.propose_and_judge()
        self.artifacts.release()  # recipes train in processes of their own, on the same device
        name = "mine pairs and verifier rows"
        with self.stage(name), self.progress(name, None):
            self.build_second()
        base = base_folder(preset.verifier_base)
        trainings = [("train_verifier", "verifier", base, "verifier")]
        if "cheap_dpo" in self.artifacts.parts.proposers:
            start = self.folders.model("cheap")
            trainings.append(("dpo_proposer", "cheap_dpo", start, "preferences"))
        trainings.append(("train_reward_model", "reward_model", base, "reward"))
        self.train(names.learning_from_proposals, *trainings)
        if "cheap_dpo" in self.artifacts.parts.proposers:
            with self.stage("DPO proposer proposes"):
                self.propose("cheap_dpo", EVALUATED, 1)
        if servers.trained:
            with self.stage(names.ranking):
                for role in servers.trained:
                    self.rank(role)
        with self.stage("verifiers judge"):
            self.judge()
        with self.stage("calibrate"):
            self.calibrate()
        with self.stage("live episodes"):
            episodes = run_live_systems(self.artifacts, self.progress)
            live = live_rows(episodes, np.random.default_rng(self.seed))
        with self.stage("evaluate"), self.progress("evaluate", None):
            replay = self.evaluate(episodes)
        results = collect_results(self.artifacts, replay, live, self.stage_times, self.command)
        write_json(self.folders.evaluation / RESULTS_FILE, results)
        write_report(results, self.folders.report)
        write_measured(results, self.folders)
        return results

    def check_servers(self) -> None:
        """Each server is asked once, so that one which fails does so before anything is trained."""
        first = planned_episodes(self.preset, self.seed)[0]
        episode = Episode(first.environment_at_start(), first.policy, first.trial)
        sampling = self.artifacts.sampling(1)
        check_servers(self.artifacts.servers, self.folders, episode, sampling)
        for note in self.artifacts.parts.notes:
            logger.info("%s", note)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log a stage, and write down what all attempts at it took together.

        `complete` is False where an attempt was killed, whose seconds are lost. On later runs a
        finished stage is skipped, or done again from what is there; neither adds to its time.
        """
        logger.info("%s", name)
        times = self._times()
        before = times.get(name, {"seconds": 0.0, "finished": False, "complete": True})
        if not before["finished"]:
            write_json(self.folders.times, times | {name: before | {"complete": False}})
        started, finished = time.perf_counter(), False
        try:
            yield
            finished = True
        finally:
            taken = time.perf_counter() - started
            if before["finished"]:
                now = before | {"seconds": max(before["seconds"], round(taken, 1))}
            else:
                seconds = round(before["seconds"] + taken, 1)
                now = before | {"seconds": seconds, "finished": finished}
            write_json(self.folders.times, times | {name: now})
        self.stage_times.append(
            {"name": name, "seconds": now["seconds"], "complete": now["complete"]}
        )

    def _times(self) -> dict[str, dict[str, Any]]:
        """What times.json holds: `seconds`, `finished` and `complete` by stage."""
        path = self.folders.times
        return cast(dict[str, dict[str, Any]], read_json(path) if path.is_file() else {})

    def roll_out(self) -> None:
        """Scripted rollouts of the preset's tasks, split by task."""
        plans = planned_episodes(self.preset, self.seed)
        with self.progress("episodes", len(plans)) as advance:
            collect_rollouts(
                self.folders.rollouts,
                plans,
                fractions=self.preset.fractions,
                seed=self.seed,
                overwrite=True,
                progress=advance,
            )

    def build(
        self,
        builder: Callable[..., Any],
        name: str,
        split: SplitName,
        *,
        base: str,
        **options: Any,
    ) -> None:
        """Training rows for a model that starts from `base`."""
        source = DataSource(
            rollouts_dir=self.folders.rollouts,
            proposals_dirs=[] if name == "sft" else [self.folders.proposals("cheap")],
            out_dir=self.folders.data(name),
            renderer=self.artifacts.base_renderer(base_folder(base)),
            split=split,
            seed=self.seed,
            overwrite=True,
        )
        builder(source, **options)

    def build_second(self) -> None:
        """What the verifier, the reward model and DPO learn from: errors on tasks new to cheap."""
        preset = self.preset
        split: SplitName = "train_verifier"
        caps = {"max_per_task": preset.max_pairs_per_task, "in_environment": True}
        self.build(build_verifier, "verifier", split, base=preset.verifier_base)
        if "cheap_dpo" in self.artifacts.parts.proposers:
            self.build(
                build_preferences,
                "preferences",
                split,
                base=preset.cheap_base,
                strategies=preset.pair_strategies,
                **caps,
            )
        self.build(build_reward, "reward", split, base=preset.verifier_base, **caps)

    def train(self, stage: str, *trainings: tuple[str, str, Path, str]) -> None:
        """Run recipes in processes of their own, their output kept in log files.

        Args:
            stage: Its name.
            trainings: Recipe, role, model to start from and data set of each, the longest first.
        """
        configs = programs_root() / "recipes" / "configs" / self.preset.configs
        # Configs for a GPU ask for bf16, which transformers refuses elsewhere unless told so.
        where = {} if torch.cuda.is_available() else {"use_cpu": "true"}
        with self.stage(stage), self.progress(stage, 100 * len(trainings)) as advance:
            launch(
                [
                    Training(
                        recipe=recipe,
                        config=configs / f"{recipe}.yaml",
                        arguments={
                            "model_name_or_path": str(start),
                            "dataset_dir": str(self.folders.data(data)),
                            "output_dir": str(self.folders.model(role)),
                            "seed": str(self.seed),
                            "chat_template": self.preset.chat_template,
                            **where,
                        },
                        log=self.folders.log(role),
                    )
                    for recipe, role, start, data in trainings
                ],
                side_by_side=self.preset.num_side_by_side,
                progress=advance,
            )

    def propose(self, role: str, splits: tuple[SplitName, ...], num_samples: int) -> None:
        """A model's free-text proposals on some splits."""
        total = num_steps(self.artifacts.rollouts(*splits))
        with self.progress(f"{role} proposes", total, "steps") as advance:
            collect_proposals(
                self.folders.rollouts,
                self.folders.proposals(role),
                self.artifacts.model(role),
                splits,
                sampling=self.artifacts.sampling(num_samples),
                progress=advance,
            )

    def propose_and_judge(self) -> None:
        """The strong model's free-text proposals, and its judgements of the cheap one's.

        A server's come apart, as it reads each request by itself.
        """
        strong = self.artifacts.model("strong")
        if not isinstance(strong, LanguageModel):
            self.propose("strong", EVALUATED, 1)
            return
        total = num_steps(self.artifacts.rollouts(*EVALUATED))
        with self.progress("strong proposes", total, "steps") as advance:
            collect_judged_proposals(
                self.folders.rollouts,
                self.folders.proposals("strong"),
                strong,
                EVALUATED,
                sampling=self.artifacts.sampling(1),
                judged_dir=self.folders.proposals("cheap"),
                scores_dir=self.folders.scores("strong_judge", "cheap"),
                num_judged=num_judged("strong_judge", "cheap"),
                progress=advance,
            )

    def rank(self, role: str) -> None:
        """A model's choice among candidates on some test tasks."""
        test: tuple[SplitName, ...] = ("test",)
        tasks = self.artifacts.test_tasks(self.preset.num_ranked_tasks)
        total = num_steps(r for r in self.artifacts.rollouts(*test) if r.task_id in tasks)
        with self.progress(f"{role} ranks", total, "steps") as advance:
            collect_proposals(
                self.folders.rollouts,
                self.folders.ranked(role),
                self.artifacts.trained(role),
                test,
                sampling=None,
                tasks=tasks,
                progress=advance,
            )

    def judge(self) -> None:
        """All verifiers on the calibration and test proposals of the models they gate.

        A loaded strong model has judged when it proposed (`propose_and_judge`), and is found done.
        """
        total = num_steps(self.artifacts.rollouts(*EVALUATED))
        for key, role in self.artifacts.parts.judged:
            verifier, renderer = self.artifacts.verifier(key)
            with self.progress(f"{key} judges {role}", total, "steps") as advance:
                collect_scores(
                    self.folders.rollouts,
                    self.folders.proposals(role),
                    self.folders.scores(key, role),
                    verifier,
                    renderer,
                    EVALUATED,
                    num_samples=num_judged(key, role),
                    progress=advance,
                )

    def calibrate(self) -> None:
        """gate.json of every gated system, from the calibration split alone."""
        parts = self.artifacts.parts
        inputs = {f"{key}/{role}": self.folders.scores(key, role) for key, role in parts.judged}
        with open_stage(
            self.folders.gates,
            "calibrate",
            inputs={**inputs, "strong": self.folders.proposals("strong")},
            arguments={
                "systems": [asdict(system) for system in parts.systems.values() if system.gated],
                "calibrators": AUTOMATIC,
                "num_folds": NUM_FOLDS,
                "cost_weight": COST_WEIGHT,
            },
            seed=self.seed,
            overwrite=True,
        ) as stage:
            if not stage.done:
                gates = calibrate(
                    self.artifacts.outcomes("calibration"),
                    calibration_hash=self.artifacts.calibration_hash(),
                    seed=self.seed,
                )
                for name, gate in gates.items():
                    write_json(stage.path / f"{name}.json", gate.to_json())
                stage.counts["gates"] = len(gates)

    def evaluate(self, live: Mapping[str, Sequence[LiveEpisode]]) -> dict[str, Any]:
        """The replay part of the results; what each system did step by step goes to a table."""
        rollouts = self.artifacts.rollouts("train_proposer")
        test, gates = self.artifacts.outcomes("test"), self.artifacts.gates()
        write_step_outcomes(
            self.folders.evaluation / STEPS_FILE, StepNames.of(test.table), run_all(test, gates)
        )
        return evaluate(
            test,
            gates,
            [step for rollout in rollouts for step in rollout.each_step()],
            ranked=self.artifacts.ranked(),
            calibration=self.artifacts.outcomes("calibration"),
            live=live,
            seed=self.seed,
        )
