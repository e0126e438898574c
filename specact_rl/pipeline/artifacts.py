"""What a run has made so far, read back: rollouts, models, verifiers, outcome tables, gates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from specact_rl.errors import ConfigError
from specact_rl.eval.columns import (
    ProposalColumns,
    StepTable,
    score_matrix,
    score_price,
    score_seconds,
)
from specact_rl.eval.joined import Outcomes, Ranked
from specact_rl.eval.replay import Judged
from specact_rl.mining.build_rollouts import read_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE, SCORES_FILE
from specact_rl.models.chat_client import ChatModel
from specact_rl.models.chat_templates import OWN
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import (
    Dtype,
    check_checkpoint_info,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    model_id,
)
from specact_rl.pipeline.folders import RESULTS_FILE, Folders
from specact_rl.pipeline.pretraining import with_own_bases
from specact_rl.pipeline.servers import Parts, Servers, asks_logprobs, judge_failure
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import num_judged
from specact_rl.presets import Preset
from specact_rl.rendering import CatalogueMode, Renderer
from specact_rl.store import content_hash, folder_hash, read_json, read_manifest, read_table
from specact_rl.types import Proposal, Rollout, Score, SplitName
from specact_rl.verifiers import (
    ClassifierVerifier,
    LinearVerifier,
    ProposerConfidence,
    SampleAgreement,
    StrongJudge,
    Verifier,
)
from specact_rl.verifiers.base import items_of
from specact_rl.verifiers.server_judge import ServerJudge


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """A run's folders, read; models and verifiers are loaded once."""

    preset: Preset
    """With the bases that the run starts from."""
    seed: int
    folders: Folders
    servers: Servers = field(default_factory=Servers)
    """Keeping their answers in the folders."""
    _models: dict[str, LanguageModel] = field(default_factory=dict, init=False, repr=False)
    _verifiers: dict[str, tuple[Verifier, Renderer | None]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def parts(self) -> Parts:
        """Proposers, verifiers and systems of the run, as far as its servers allow."""
        return Parts.of(self.servers, judge_failure(self.folders))

    def rollouts(self, *splits: SplitName) -> list[Rollout]:
        """Rollouts of some splits."""
        return read_rollouts(self.folders.rollouts, splits)

    def test_tasks(self, count: int) -> list[str]:
        """Test tasks of families that were trained on, drawn by lot; fewer are among more."""
        return draw_tasks(self.rollouts("test"), count, self.seed)

    def sampling(self, num_samples: int) -> Sampling:
        """How proposals are drawn in this run."""
        return Sampling(
            num_samples=num_samples,
            temperature=self.preset.temperature,
            max_new_tokens=self.preset.max_new_tokens,
            seed=self.seed,
        )

    def renderer(self, path: str | Path) -> Renderer:
        """The renderer of a trained checkpoint's tokenizer.

        Raises:
            ModelError: It renders otherwise than the one that the checkpoint was trained with.
        """
        return self._renderer(path, OWN)

    def base_renderer(self, path: str | Path) -> Renderer:
        """The renderer of a model that is trained from a base: with the preset's chat template.

        Raises:
            ModelError: The base was trained with another one already.
        """
        return self._renderer(path, self.preset.chat_template)

    def _renderer(self, path: str | Path, template: str) -> Renderer:
        catalogue = cast(CatalogueMode, self.preset.catalogue)
        renderer = Renderer(tokenizer=load_tokenizer(path, template), catalogue=catalogue)
        check_checkpoint_info(path, renderer)
        return renderer

    def model(self, role: str) -> LanguageModel | ChatModel:
        """The model of a role: the trained one, or a server's."""
        return self.servers.roles.get(role) or self.trained(role)

    def trained(self, role: str) -> LanguageModel:
        """The trained model of a role."""
        if role not in self._models:
            path = self.folders.model(role)
            model = load_causal_lm(path, cast(Dtype, self.preset.dtype))
            self._models[role] = LanguageModel.of(model, path, self.renderer(path))
        return self._models[role]

    def release(self) -> None:
        """Let loaded models go, and give back what they took of the device."""
        self._models.clear()
        self._verifiers.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def verifier(self, key: str) -> tuple[Verifier, Renderer | None]:
        """A verifier and the renderer of its prompts; None where a server renders them."""
        if key not in self._verifiers:
            self._verifiers[key] = self._make_verifier(key)
        return self._verifiers[key]

    def _make_verifier(self, key: str) -> tuple[Verifier, Renderer | None]:
        if key == "classifier":
            return self._classifier("verifier", num_labels=2)
        if key == "reward_model":
            return self._classifier("reward_model", num_labels=1)
        if key == "strong_judge":
            return self._judge()
        # These read no tokens, so that the trained verifier's will do for a server's proposals.
        renderer = self.renderer(
            self.folders.model("verifier" if self.servers.cheap is not None else "cheap")
        )
        if key == "proposer_logprob":
            return ProposerConfidence(), renderer
        if key == "sample_agreement":
            return SampleAgreement(), renderer
        return self._linear(key, renderer), renderer

    def _classifier(self, role: str, num_labels: int) -> tuple[Verifier, Renderer]:
        path = self.folders.model(role)
        renderer = self.renderer(path)
        verifier = ClassifierVerifier(
            verifier_id=model_id(path, renderer),
            model=load_classifier(path, cast(Dtype, self.preset.dtype), num_labels),
            renderer=renderer,
        )
        return verifier, renderer

    def _judge(self) -> tuple[Verifier, Renderer | None]:
        if self.servers.judge is not None:
            return self.servers.judge, None
        strong = self.trained("strong")
        own = {p.step_id: p for p in self.proposals("strong")}
        return StrongJudge.of(strong, own), strong.renderer

    def _linear(self, key: str, renderer: Renderer) -> LinearVerifier:
        """Fitted on the rows that the trained verifier learns from."""
        rollouts = self.rollouts("train_verifier")
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

    def proposals(self, role: str) -> list[Proposal]:
        """A model's free-text proposals."""
        return read_table(self.folders.proposals(role) / PROPOSALS_FILE, Proposal)

    def outcomes(self, split: SplitName) -> Outcomes:
        """All outcome tables of one split, joined."""
        table, parts = StepTable.of(self.rollouts(split)), self.parts
        columns = {role: self._columns(table, role) for role in parts.proposers}
        judged = {}
        for key, role in parts.judged:
            scores = read_table(self.folders.scores(key, role) / SCORES_FILE, Score)
            verifier, num = self.verifier(key)[0], num_judged(key, role)
            is_server = isinstance(verifier, ServerJudge)
            judged[key, role] = Judged(
                verifier_id=scores[0].verifier_id,
                size=verifier.size,
                shares_strong=key == "strong_judge" and not is_server,
                log_odds=score_matrix(columns[role], scores, num),
                seconds=score_seconds(columns[role], scores, num),
                price=score_price(columns[role], scores, num) if is_server else None,
            )
        return Outcomes(
            table=table,
            columns=columns,
            judged=judged,
            sizes={role: self.model(role).size for role in parts.proposers},
        )

    def _columns(self, table: StepTable, role: str) -> ProposalColumns:
        columns = _columns(table, self.proposals(role))
        if self.servers and role not in self.servers.roles:  # nobody is paid for it
            return replace(columns, price=np.zeros_like(columns.price))
        return columns

    def ranked(self) -> Ranked | None:
        """Ranked proposals of cheap and strong, on the test tasks where there are any.

        None where both are behind servers.
        """
        if not self.servers.trained:
            return None
        tasks = set(self.test_tasks(self.preset.num_ranked_tasks))
        table = StepTable.of(r for r in self.rollouts("test") if r.task_id in tasks)
        return Ranked(
            table=table,
            columns={
                role: _columns(
                    table, read_table(self.folders.ranked(role) / PROPOSALS_FILE, Proposal)
                )
                for role in self.servers.trained
            },
        )

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
                "split": sorted(r.task_id for r in self.rollouts("calibration")),
                "rollouts": folder_hash(self.folders.rollouts),
                "seed": self.seed,
            }
        )


def finished_run(folder: Path) -> Artifacts:
    """What a finished run of a preset has made, with the bases and sizes that it was given.

    Raises:
        ConfigError: The folder holds no finished run, or one of a version with other presets.
    """
    if not (Folders(root=folder).evaluation / RESULTS_FILE).is_file():
        raise ConfigError(f"{folder} must be the folder of a finished `specact run`")
    return begun_run(folder)


def begun_run(folder: Path) -> Artifacts:
    """A run that may have gone only part of its way; what is not there yet cannot be read.

    Raises:
        ConfigError: The folder holds no run, or one of a version with other presets.
    """
    folders = Folders(root=folder)
    if not folders.identity.is_file():
        raise ConfigError(f"{folder} must be the folder of a `specact run`")
    identity = read_json(folders.identity)
    try:
        preset = TypeAdapter(Preset).validate_python(identity["preset"])
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{folders.identity} must hold a preset of this version, but "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}; read the run with version "
            f"{identity.get('code_version')}"
        ) from error
    if identity["from_scratch"]:
        preset = with_own_bases(preset, folders)
    servers = Servers.of(preset, {"cheap": {"logprobs": asks_logprobs(folders)}})
    return Artifacts(
        preset=preset, seed=identity["seed"], folders=folders, servers=servers.keeping(folders)
    )


def draw_tasks(rollouts: Iterable[Rollout], count: int, seed: int) -> list[str]:
    """So many of the tasks whose family was not held out, by lot; fewer are among more."""
    inside = [rollout for rollout in rollouts if not rollout.info.get("out_of_family")]
    tasks = sorted({rollout.task_id for rollout in inside})
    chosen = np.random.default_rng(seed).permutation(len(tasks))
    return sorted(tasks[i] for i in chosen[:count])


def _columns(table: StepTable, proposals: list[Proposal]) -> ProposalColumns:
    """Those of the proposals that are at the table's steps."""
    steps = {step.step_id for step in table.steps}
    return ProposalColumns.of(table, [p for p in proposals if p.step_id in steps])
