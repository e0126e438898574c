"""The whole path by preset: tasks, rollouts, training, outcomes, gates, live episodes, report.

Every stage is a folder with a manifest; one that is there and was made from the same things is
skipped, so that a run killed anywhere goes on where it was. Recipes run in a process of their own.
"""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from specact_rl import __version__
from specact_rl.envs.collect import plan_episodes
from specact_rl.errors import ConfigError, SpecActError
from specact_rl.eval.collect import SCORES_FILE, collect_proposals, collect_scores
from specact_rl.eval.columns import ProposalColumns, StepTable, score_matrix, score_seconds
from specact_rl.eval.evaluate import Outcomes, Ranked, calibrate, calibration_rule, evaluate
from specact_rl.eval.live import LiveEpisode, live_in_shards, live_rows
from specact_rl.eval.replay import Judged
from specact_rl.eval.report import write_report
from specact_rl.metrics import METRICS_VERSION
from specact_rl.mining.build_rollouts import collect_rollouts, read_rollouts
from specact_rl.mining.build_rows import build_preferences, build_reward, build_sft, build_verifier
from specact_rl.mining.data_sets import PROPOSALS_FILE, DataSource
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import (
    Dtype,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    model_id,
    num_params,
)
from specact_rl.models.processes import TIED_TO_PARENT, die_with_parent
from specact_rl.policy.gates import Gate
from specact_rl.policy.live import LiveSystem
from specact_rl.policy.systems import SYSTEMS, System
from specact_rl.presets import Preset, model_path
from specact_rl.programs import find_program, programs_root
from specact_rl.progress import ProgressBar
from specact_rl.rendering import CatalogueMode, Renderer
from specact_rl.store import (
    content_hash,
    folder_hash,
    open_stage,
    read_json,
    read_manifest,
    read_shards,
    read_table,
    write_json,
)
from specact_rl.types import SPLITS, Proposal, Rollout, Score, SplitName
from specact_rl.verifiers import (
    ClassifierVerifier,
    LinearVerifier,
    ProposerConfidence,
    SampleAgreement,
    StrongJudge,
    Verifier,
)
from specact_rl.verifiers.base import items_of

logger = logging.getLogger(__name__)

EVALUATED: tuple[SplitName, ...] = ("calibration", "test")
RESULTS_FILE = "results.json"
LIVE_SYSTEMS = ("A", "B", "C", "D", "E", "D-logp", "B-dpo", "D-dpo")
"""Systems that act in whole episodes; the others are variations that the replay tells apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a run keeps what."""

    root: Path

    @property
    def rollouts(self) -> Path:
        """Logged episodes, split."""
        return self.root / "rollouts"

    def data(self, name: str) -> Path:
        """Training rows: sft, verifier, preferences, reward."""
        return self.root / "data" / name

    def model(self, role: str) -> Path:
        """Checkpoint: cheap, strong, verifier, cheap_dpo, reward_model."""
        return self.root / "models" / role

    def proposals(self, role: str) -> Path:
        """Free-text proposals table of a model."""
        return self.root / "outcomes" / role

    def ranked(self, role: str) -> Path:
        """Ranked proposals table of a model."""
        return self.root / "outcomes" / f"{role}--ranked"

    def scores(self, verifier: str, role: str) -> Path:
        """Scores table of a verifier on a model's proposals."""
        return self.root / "outcomes" / f"{role}--{verifier}"

    @property
    def gates(self) -> Path:
        """gate.json by system."""
        return self.root / "gates"

    @property
    def live(self) -> Path:
        """Live episodes."""
        return self.root / "live"

    @property
    def evaluation(self) -> Path:
        """results.json."""
        return self.root / "evaluation"

    @property
    def report(self) -> Path:
        """report.html, report.md, figures."""
        return self.root / "report"

    @property
    def logs(self) -> Path:
        """What the recipes printed."""
        return self.root / "logs"


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of a preset: its folders, its loaded models, and how long each stage took."""

    preset: Preset
    seed: int
    folders: Folders
    progress: ProgressBar
    command: list[str]
    stage_seconds: list[dict[str, Any]] = field(default_factory=list)
    _models: dict[str, LanguageModel] = field(default_factory=dict)

    def execute(self) -> dict[str, Any]:
        """Every stage in order; returns what results.json holds."""
        with self.stage("rollouts"):
            self.roll_out()
        with self.stage("build sft rows"):
            self.build(build_sft, "sft", "cheap", "train_proposer", base=self.preset.cheap_base)
        for role, base in (("cheap", self.preset.cheap_base), ("strong", self.preset.strong_base)):
            self.train("sft_proposer", role, model_path(base), "sft")
        with self.stage("cheap proposes"):
            self.propose("cheap", ("train_verifier", *EVALUATED), self.preset.num_samples)
        with self.stage("strong proposes"):
            self.propose("strong", EVALUATED, 1)
        with self.stage("mine pairs and verifier rows"):
            self.build_second()
        base = model_path(self.preset.verifier_base)
        self.train("train_verifier", "verifier", base, "verifier")
        self.train("train_reward_model", "reward_model", base, "reward")
        self.train("dpo_proposer", "cheap_dpo", str(self.folders.model("cheap")), "preferences")
        with self.stage("DPO proposer proposes"):
            self.propose("cheap_dpo", EVALUATED, 1)
        with self.stage("cheap and strong rank"):
            for role in ("cheap", "strong"):
                self.rank(role)
        with self.stage("verifiers judge"):
            self.judge()
        with self.stage("calibrate"):
            self.calibrate()
        with self.stage("live episodes"):
            live = self.live()
        with self.stage("evaluate"):
            replay = self.evaluate()
        results = self.results(replay, live)
        write_json(self.folders.evaluation / RESULTS_FILE, results)
        write_report(results, self.folders.report)
        return results

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log and time a stage."""
        logger.info("%s", name)
        started = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - started, 1)
        # The longest a stage ever took here: on a later run it is skipped, which is not its time.
        path = self.folders.root / "times.json"
        times = read_json(path) if path.is_file() else {}
        times[name] = max(seconds, times.get(name, 0.0))
        write_json(path, times)
        self.stage_seconds.append({"name": name, "seconds": times[name]})

    # -------------------------------------------------------------------- stages

    def roll_out(self) -> None:
        """Scripted rollouts of the preset's tasks, split by task."""
        first = self.seed * TASKS_PER_SEED
        plans = plan_episodes(
            self.preset.policies,
            range(first, first + self.preset.num_tasks),
            held_out_seeds=range(first, first + self.preset.num_held_out_tasks),
        )
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
        proposer: str,
        split: SplitName,
        *,
        base: str,
        **options: Any,
    ) -> None:
        """Training rows for a model that starts from `base`."""
        source = DataSource(
            rollouts_dir=self.folders.rollouts,
            proposals_dirs=[] if name == "sft" else [self.folders.proposals(proposer)],
            out_dir=self.folders.data(name),
            renderer=self.renderer(model_path(base)),
            split=split,
            seed=self.seed,
            overwrite=True,
        )
        builder(source, **options)

    def build_second(self) -> None:
        """What the verifier, the reward model and DPO learn from: errors on tasks new to cheap."""
        verifier_base = self.preset.verifier_base
        caps = {"max_per_task": self.preset.max_pairs_per_task, "in_environment": True}
        self.build(build_verifier, "verifier", "cheap", "train_verifier", base=verifier_base)
        self.build(
            build_preferences,
            "preferences",
            "cheap",
            "train_verifier",
            base=self.preset.cheap_base,
            strategies=self.preset.pair_strategies,
            **caps,
        )
        self.build(build_reward, "reward", "cheap", "train_verifier", base=verifier_base, **caps)

    def train(self, recipe: str, role: str, start: str, data: str) -> None:
        """Run a recipe in a process of its own, its output kept in a log file."""
        with self.stage(f"train {role}"), self.progress(f"training {role}", None):
            launch(
                recipe,
                programs_root() / "recipes" / "configs" / self.preset.configs / f"{recipe}.yaml",
                {
                    "model_name_or_path": start,
                    "dataset_dir": str(self.folders.data(data)),
                    "output_dir": str(self.folders.model(role)),
                    "seed": str(self.seed),
                },
                self.folders.logs / f"{role}.log",
            )

    def propose(self, role: str, splits: tuple[SplitName, ...], num_samples: int) -> None:
        """A model's free-text proposals on some splits."""
        with self.progress(f"{role} proposes", len(self.rollouts(splits))) as advance:
            collect_proposals(
                self.folders.rollouts,
                self.folders.proposals(role),
                self.model(role),
                splits,
                sampling=self.sampling(num_samples),
                progress=advance,
            )

    def rank(self, role: str) -> None:
        """A model's choice among candidates on some test tasks."""
        tasks = self.test_tasks(self.preset.num_ranked_tasks)
        test: tuple[SplitName, ...] = ("test",)
        with self.progress(f"{role} ranks", None) as advance:
            collect_proposals(
                self.folders.rollouts,
                self.folders.ranked(role),
                self.model(role),
                test,
                sampling=None,
                tasks=tasks,
                progress=advance,
            )

    def sampling(self, num_samples: int) -> Sampling:
        """How proposals are drawn in this run."""
        return Sampling(
            num_samples=num_samples,
            temperature=self.preset.temperature,
            max_new_tokens=self.preset.max_new_tokens,
            seed=self.seed,
        )

    def judge(self) -> None:
        """All verifiers on the calibration and test proposals of the models they gate."""
        total = len(self.rollouts(EVALUATED))
        for key, role in self.verifier_roles():
            verifier, renderer = self.verifier(key)
            with self.progress(f"{key} judges {role}", total) as advance:
                collect_scores(
                    self.folders.rollouts,
                    self.folders.proposals(role),
                    self.folders.scores(key, role),
                    verifier,
                    renderer,
                    EVALUATED,
                    progress=advance,
                )

    def calibrate(self) -> None:
        """gate.json of every gated system, from the calibration split alone."""
        inputs = {f"{v}/{r}": self.folders.scores(v, r) for v, r in self.verifier_roles()}
        with open_stage(
            self.folders.gates,
            "calibrate",
            inputs={**inputs, "strong": self.folders.proposals("strong")},
            arguments={},
            seed=self.seed,
            overwrite=True,
        ) as stage:
            if not stage.done:
                gates = calibrate(
                    self.outcomes("calibration"),
                    calibration_hash=self.calibration_hash(),
                    seed=self.seed,
                )
                for name, gate in gates.items():
                    write_json(stage.path / f"{name}.json", gate.to_json())
                stage.counts["gates"] = len(gates)

    def live(self) -> list[dict[str, Any]]:
        """Whole episodes of the headline systems on the same test tasks."""
        tasks = self.test_tasks(self.preset.num_live_tasks)
        gates = self.gates()
        episodes = {}
        with self.progress("live episodes", len(tasks) * len(LIVE_SYSTEMS)) as advance:
            for name in LIVE_SYSTEMS:
                system = SYSTEMS[name]
                with open_stage(
                    self.folders.live / name,
                    "live",
                    inputs={"gates": self.folders.gates},
                    arguments={
                        "tasks": tasks,
                        "models": self.model_ids(),
                        "system": asdict(system),
                    },
                    seed=self.seed,
                    overwrite=True,
                ) as stage:
                    if not stage.done:
                        acting = self.live_system(system, gates.get(name))
                        live_in_shards(stage.path, acting, tasks, advance)
                    else:
                        advance(len(tasks))
                episodes[name] = read_shards(self.folders.live / name, LiveEpisode)
        return live_rows(episodes, np.random.default_rng(self.seed))

    def test_tasks(self, count: int) -> list[str]:
        """Test tasks drawn by lot; fewer are among more."""
        tasks = sorted({rollout.task_id for rollout in self.rollouts(("test",))})
        chosen = np.random.default_rng(self.seed).permutation(len(tasks))
        return sorted(tasks[i] for i in chosen[:count])

    def model_ids(self) -> dict[str, str]:
        """Ids of the models that act, by role."""
        return {role: self.model(role).model_id for role in ("cheap", "strong", "cheap_dpo")}

    def live_system(self, system: System, gate: Gate | None) -> LiveSystem:
        """A system with its models loaded."""
        verifier, renderer = self.verifier(system.verifier) if system.verifier else (None, None)
        return LiveSystem(
            system=system,
            strong=self.model("strong"),
            proposer=self.model(system.proposer) if system.proposer else None,
            verifier=verifier,
            renderer=renderer,
            gate=gate,
            sampling=self.sampling(max(system.num_proposals, system.num_compared)),
        )

    def evaluate(self) -> dict[str, Any]:
        """The replay part of the results."""
        train = [s for r in self.rollouts(("train_proposer",)) for s in r.each_step()]
        tasks = set(self.test_tasks(self.preset.num_ranked_tasks))
        table = StepTable.of(r for r in self.rollouts(("test",)) if r.task_id in tasks)
        steps = {step.step_id for step in table.steps}
        ranked = {}
        for role in ("cheap", "strong"):
            proposals = read_table(self.folders.ranked(role) / PROPOSALS_FILE, Proposal)
            here = [p for p in proposals if p.step_id in steps]
            ranked[role] = ProposalColumns.of(table, here)
        return evaluate(
            self.outcomes("test"),
            self.gates(),
            train,
            ranked=Ranked(table=table, columns=ranked),
            seed=self.seed,
        )

    def results(self, replay: dict[str, Any], live: list[dict[str, Any]]) -> dict[str, Any]:
        """All that results.json holds."""
        splits = {}
        for split in SPLITS:
            rollouts = self.rollouts((split,))
            splits[split] = {
                "num_tasks": len({r.task_id for r in rollouts}),
                "num_steps": sum(len(r.steps) for r in rollouts),
                "families": sorted({r.family for r in rollouts}),
            }
        plain = {
            "meta": self.meta(),
            "splits": splits,
            "replay": replay,
            "live": live,
            "pairs": self.pair_rows(),
            "training": self.training_rows(),
        }
        return cast(dict[str, Any], _plain(plain))

    # ------------------------------------------------------------- what stages read

    def rollouts(self, splits: tuple[SplitName, ...]) -> list[Rollout]:
        """Rollouts of some splits."""
        return read_rollouts(self.folders.rollouts, splits)

    def renderer(self, path: str | Path) -> Renderer:
        """The renderer of a checkpoint's tokenizer."""
        catalogue = cast(CatalogueMode, self.preset.catalogue)
        return Renderer(tokenizer=load_tokenizer(path), catalogue=catalogue)

    def model(self, role: str) -> LanguageModel:
        """The trained model of a role, loaded once."""
        if role not in self._models:
            path = self.folders.model(role)
            model = load_causal_lm(path, cast(Dtype, self.preset.dtype))
            self._models[role] = LanguageModel.of(model, path, self.renderer(path))
        return self._models[role]

    def verifier_roles(self) -> list[tuple[str, str]]:
        """Which verifier judges whose proposals."""
        keys = (
            "proposer_logprob",
            "sample_agreement",
            "linear",
            "linear_with_confidence",
            "classifier",
            "reward_model",
            "strong_judge",
        )
        return [(key, "cheap") for key in keys] + [("classifier", "cheap_dpo")]

    def verifier(self, key: str) -> tuple[Verifier, Renderer]:
        """A verifier and the renderer of its prompts."""
        dtype = cast(Dtype, self.preset.dtype)
        if key in ("classifier", "reward_model"):
            role, labels = ("verifier", 2) if key == "classifier" else ("reward_model", 1)
            path = self.folders.model(role)
            renderer = self.renderer(path)
            model = load_classifier(path, dtype, labels)
            verifier_id = model_id(path, renderer)
            return ClassifierVerifier(
                verifier_id=verifier_id, model=model, renderer=renderer
            ), renderer
        if key == "strong_judge":
            strong = self.model("strong")
            own = {p.step_id: p for p in self.proposals("strong")}
            judge = StrongJudge(
                verifier_id=f"judge-{strong.model_id}",
                model=strong.model,
                renderer=strong.renderer,
                own=own,
            )
            return judge, strong.renderer
        renderer = self.model("cheap").renderer
        if key == "proposer_logprob":
            return ProposerConfidence(), renderer
        if key == "sample_agreement":
            return SampleAgreement(), renderer
        return self.linear(key, renderer), renderer

    def linear(self, key: str, renderer: Renderer) -> LinearVerifier:
        """Fitted on the rows that the trained verifier learns from."""
        rollouts = self.rollouts(("train_verifier",))
        steps = {step.step_id for rollout in rollouts for step in rollout.each_step()}
        known = [
            p for p in self.proposals("cheap") if p.step_id in steps and p.acceptable is not None
        ]
        return LinearVerifier.fit(
            items_of(rollouts, known, renderer),
            np.array([bool(p.acceptable) for p in known]),
            with_confidence=key == "linear_with_confidence",
            seed=self.seed,
        )

    def proposals(self, name: str) -> list[Proposal]:
        """A model's proposals table."""
        return read_table(self.folders.proposals(name) / PROPOSALS_FILE, Proposal)

    def outcomes(self, split: SplitName) -> Outcomes:
        """All outcome tables of one split, joined."""
        table = StepTable.of(self.rollouts((split,)))
        steps = {step.step_id for step in table.steps}

        def columns(name: str) -> ProposalColumns:
            here = [p for p in self.proposals(name) if p.step_id in steps]
            return ProposalColumns.of(table, here)

        roles = {role: columns(role) for role in ("cheap", "strong", "cheap_dpo")}
        judged = {}
        for key, role in self.verifier_roles():
            scores = read_table(self.folders.scores(key, role) / SCORES_FILE, Score)
            judged[key, role] = Judged(
                verifier_id=scores[0].verifier_id,
                num_params=self.verifier_params(key),
                shares_strong=key == "strong_judge",
                log_odds=score_matrix(roles[role], scores),
                seconds=score_seconds(roles[role], scores),
            )
        return Outcomes(
            table=table,
            columns=roles,
            judged=judged,
            num_params={role: self.model(role).num_params for role in roles},
        )

    def verifier_params(self, key: str) -> int:
        """Weights of a verifier's forward pass; 0 where it runs no model."""
        if key == "strong_judge":
            return self.model("strong").num_params
        if key in ("classifier", "reward_model"):
            labels = 2 if key == "classifier" else 1
            role = "verifier" if key == "classifier" else "reward_model"
            return num_params(load_classifier(self.folders.model(role), "float32", labels))
        return 0

    def gates(self) -> dict[str, Gate]:
        """The frozen gates, checked against the calibration tables they claim to come from."""
        read_manifest(self.folders.gates)
        gates = {}
        for path in sorted(self.folders.gates.glob("*.json")):
            if path.name != "manifest.json":
                gate = Gate.from_json(read_json(path))
                gate.check_matches(calibration_hash=self.calibration_hash())
                gates[path.stem] = gate
        return gates

    def calibration_hash(self) -> str:
        """Hash of everything gates are fitted on."""
        return content_hash(
            {
                "split": sorted(r.task_id for r in self.rollouts(("calibration",))),
                "rollouts": folder_hash(self.folders.rollouts),
                "seed": self.seed,
            }
        )

    def pair_rows(self) -> list[dict[str, Any]]:
        """Mined pairs by strategy, with the precision that the environment measured."""
        folder = self.folders.data("preferences")
        manifest = read_manifest(folder)
        report = read_json(folder / "report.json")
        return [
            {
                "strategy": strategy,
                "count": manifest.counts.get(strategy, 0),
                "dropped": {
                    reason: n for reason, n in manifest.dropped.items() if strategy in reason
                },
                "precision": report.get("precision", {}).get(strategy),
                "gaps": report.get("length_gaps", {}).get(strategy),
            }
            for strategy in self.preset.pair_strategies
        ]

    def training_rows(self) -> list[dict[str, Any]]:
        """What each recipe did, from its log."""
        rows = []
        for role in ("cheap", "strong", "verifier", "reward_model", "cheap_dpo"):
            log = read_json(self.folders.model(role) / "train_log.json")
            losses = [entry["loss"] for entry in log["log"] if "loss" in entry]
            rows.append(
                {
                    "recipe": log["recipe"],
                    "model": role,
                    "rows": log["num_rows"],
                    "seconds": log["seconds"],
                    "first_loss": losses[0] if losses else None,
                    "last_loss": losses[-1] if losses else None,
                }
            )
        return rows

    def meta(self) -> dict[str, Any]:
        """What the run was."""
        return {
            "preset": self.preset.name,
            "seed": self.seed,
            "command": " ".join(self.command),
            "code_version": __version__,
            "metrics_version": METRICS_VERSION,
            "machine": {
                "processor": _processor(),
                "cores": os.cpu_count(),
                "memory_gb": round(_memory_gb()),
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            "wall_seconds": round(sum(stage["seconds"] for stage in self.stage_seconds), 1),
            "stages": self.stage_seconds,
            "label": "acceptable: the action brings the expert's goal one step nearer",
            "calibration_rule": calibration_rule(),
            "num_params": {r: self.model(r).num_params for r in ("cheap", "strong")}
            | {"verifier": self.verifier_params("classifier")},
        }


TASKS_PER_SEED = 100_000
"""Task seeds of run seed n start at n times this, so that runs share no task."""


def run_preset(
    preset: Preset, out: Path, *, seed: int, progress: ProgressBar, command: list[str]
) -> dict[str, Any]:
    """Run a preset into a folder, or go on with the same run there.

    Raises:
        ConfigError: The folder holds a run of another preset, seed or version.
    """
    if (seed + 1) * TASKS_PER_SEED > 10_000_000 or seed < 0:
        raise ConfigError(f"seed must be in [0, 99), got {seed!r}")
    identity = {"preset": asdict(preset), "seed": seed, "code_version": __version__}
    identity = cast(dict[str, Any], _plain(identity))
    path = out / "run.json"
    if path.is_file():
        found = read_json(path)
        if found != identity:
            differing = sorted(k for k in identity if found.get(k) != identity[k])
            raise ConfigError(
                f"{out} holds another run (differs in {', '.join(differing)}); choose another "
                "--out, or delete the folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} must be new, empty or a run of the same preset and seed")
    write_json(path, identity)
    run = Run(
        preset=preset, seed=seed, folders=Folders(root=out), progress=progress, command=command
    )
    return run.execute()


def launch(recipe: str, config: Path, arguments: dict[str, str], log: Path) -> None:
    """Run a recipe through accelerate in a process of its own.

    Raises:
        SpecActError: It failed; the message is its own, or the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    # Left alone, accelerate gives a CPU process one thread.
    command += ["--num_cpu_threads_per_process", str(torch.get_num_threads())]
    command += [str(find_program("recipes", recipe)), "--config", str(config)]
    for name, value in arguments.items():
        command += [f"--{name}", value]
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
            env={**os.environ, TIED_TO_PARENT: "1"},
            preexec_fn=die_with_parent,
        )
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        own = [line for line in lines if f"{recipe}: error:" in line]
        raise SpecActError(
            f"recipe {recipe} ended with exit code {done.returncode}: "
            f"{own[-1] if own else ' / '.join(lines[-3:])}; its whole output is in {log}"
        )


def _plain(value: Any) -> Any:
    """Dataclasses and arrays as JSON values; NaN as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return float("nan")
