"""Roles of a run that are models behind servers: which, how they are asked, and what is left out.

Such a model is not trained, ranks no candidates, and gives what its server gives. Its answers stay
in the run's folder, so that nothing is asked twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from specact_rl.envs.episodes import Episode
from specact_rl.errors import ConfigError
from specact_rl.models.chat_client import LONGEST_ANSWER, ChatModel
from specact_rl.models.language_model import Sampling
from specact_rl.models.server import is_server
from specact_rl.pipeline.folders import Folders
from specact_rl.policy.systems import SYSTEMS, System
from specact_rl.presets import Preset
from specact_rl.store import read_json, write_json
from specact_rl.verifiers.server_judge import ServerJudge

PROPOSERS = ("cheap", "strong", "cheap_dpo")
"""Roles of the models that write actions."""
JUDGED = (
    ("proposer_logprob", "cheap"),
    ("sample_agreement", "cheap"),
    ("linear", "cheap"),
    ("linear_with_confidence", "cheap"),
    ("classifier", "cheap"),
    ("reward_model", "cheap"),
    ("strong_judge", "cheap"),
    ("classifier", "cheap_dpo"),
)
"""Which verifier judges whose proposals."""
BEHIND_SERVERS = ("cheap", "strong")
"""Roles that may be."""
_OF_LOGPROBS = ("proposer_logprob", "linear_with_confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The models of a run that are behind servers; None where a checkpoint has the role."""

    cheap: ChatModel | None = None
    strong: ChatModel | None = None
    judge: ServerJudge | None = None
    """The strong model, asked whether a proposal is right."""

    @classmethod
    def of(cls, preset: Preset, options: Mapping[str, Mapping[str, Any]] | None = None) -> Servers:
        """Those that a preset's bases name as URL#NAME.

        Args:
            preset: As the user changed it.
            options: Fields of `ChatModel`, by role.

        Raises:
            ConfigError: No server, or no model of it, is named so; the verifier is a server's.
        """
        if is_server(preset.verifier_base):
            raise ConfigError(
                "verifier and reward model are trained, and need weights: --verifier-base must be "
                f"a checkpoint, got {preset.verifier_base!r}. A server judges as the strong model "
                "(--strong-base URL#NAME)"
            )
        options = options or {}
        found: dict[str, ChatModel] = {}
        for role, base in (("cheap", preset.cheap_base), ("strong", preset.strong_base)):
            if is_server(base):
                fields = {"longest": LONGEST_ANSWER, **options.get(role, {})}
                found[role] = ChatModel.named(base, **fields)
        strong = found.get("strong")
        judge = None
        if strong is not None:
            own = {k: v for k, v in options.get("strong", {}).items() if k != "logprobs"}
            judge = ServerJudge.named(preset.strong_base, **own)
        return cls(cheap=found.get("cheap"), strong=strong, judge=judge)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.roles)

    @property
    def roles(self) -> dict[str, ChatModel]:
        """The models by role."""
        found = {"cheap": self.cheap, "strong": self.strong}
        return {role: model for role, model in found.items() if model is not None}

    @property
    def trained(self) -> tuple[str, ...]:
        """Of cheap and strong, those that are fine-tuned here."""
        return tuple(role for role in BEHIND_SERVERS if role not in self.roles)

    def keeping(self, folders: Folders) -> Servers:
        """The same, with all answers kept in the run's folder."""
        return Servers(
            cheap=self.cheap and self.cheap.keeping(folders.answers("cheap")),
            strong=self.strong and self.strong.keeping(folders.answers("strong")),
            judge=self.judge and self.judge.keeping(folders.answers("judge")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNames:
    """What a run calls its stages in which servers have no part."""

    fine_tuning: str
    learning_from_proposals: str
    ranking: str

    @classmethod
    def of(cls, servers: Servers) -> StageNames:
        """By the roles that are trained."""
        trained = " and ".join(servers.trained)
        dpo = ", DPO proposer" if "cheap" in servers.trained else ""
        return cls(
            fine_tuning=f"train {trained}",
            learning_from_proposals=f"train verifier{dpo} and reward model",
            ranking=f"{trained} {'rank' if len(servers.trained) > 1 else 'ranks'}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which proposers, verifiers and systems a run has, and why it has no others."""

    proposers: tuple[str, ...]
    judged: tuple[tuple[str, str], ...]
    systems: Mapping[str, System]
    notes: tuple[str, ...]
    """A line on each thing that servers make otherwise, or that is left out for them."""

    @classmethod
    def of(cls, servers: Servers, judge_fails: str | None = None) -> Parts:
        """Those that servers leave.

        Args:
            servers: Of the run.
            judge_fails: Why the strong model's server cannot judge; None: it can, or nobody asked.
        """
        no_judge = {"strong_judge"} if judge_fails is not None else set[str]()
        no_logprobs = set[str]()
        if servers.cheap is not None and not servers.cheap.logprobs:
            no_logprobs = set(_OF_LOGPROBS)
        gone = ("cheap_dpo",) if servers.cheap is not None else ()
        judged = tuple(
            (key, role)
            for key, role in JUDGED
            if role not in gone and key not in no_judge | no_logprobs
        )
        systems = {
            name: system
            for name, system in SYSTEMS.items()
            if system.proposer not in gone
            and (system.verifier is None or (system.verifier, system.proposer) in judged)
        }
        notes = [_not_trained(role, model) for role, model in servers.roles.items()]
        if gone:
            notes.append(_line(gone, set(), "a server's model cannot be trained with DPO"))
        if no_logprobs:
            notes.append(
                _line(
                    (),
                    no_logprobs,
                    "no log-probabilities of the proposals (--logprobs asks for them)",
                )
            )
        if judge_fails is not None:
            notes.append(_line((), no_judge, judge_fails))
        return cls(
            proposers=tuple(role for role in PROPOSERS if role not in gone),
            judged=judged,
            systems=systems,
            notes=tuple(notes),
        )


def _not_trained(role: str, model: ChatModel) -> str:
    return f"The {role} model is {model.model_id} as it is: not trained, and it ranks no candidates"


def _line(proposers: tuple[str, ...], verifiers: set[str], why: str) -> str:
    names = [
        name
        for name, system in SYSTEMS.items()
        if system.proposer in proposers or system.verifier in verifiers
    ]
    return f"Left out {', '.join(names)}: {why}"


def judge_failure(folders: Folders) -> str | None:
    """Why the strong model's server cannot judge, as `check_servers` found; None: it can."""
    return _found(folders).judge_fails


def asks_logprobs(folders: Folders) -> bool:
    """Whether the cheap model's server was asked for log-probabilities."""
    return _found(folders).logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What `check_servers` writes down."""

    models: Mapping[str, str]
    """Ids of the servers' models by role."""
    logprobs: bool
    judge_fails: str | None


def _found(folders: Folders) -> _Found:
    if not folders.servers.is_file():
        return _Found(models={}, logprobs=False, judge_fails=None)
    return _Found(**read_json(folders.servers))


def check_servers(servers: Servers, folders: Folders, episode: Episode, sampling: Sampling) -> None:
    """Ask each server once, before anything is trained, and note whether the strong one can judge.

    What was found is written down, and no server is asked again when the run goes on.

    Args:
        servers: Of the run, keeping their answers.
        folders: Of the run.
        episode: The first one, at its start; what is asked is what the run will ask there.
        sampling: Of the run.

    Raises:
        ServerError: One does not answer, refuses, or gives no log-probabilities though it must.
    """
    models = {role: model.model_id for role, model in servers.roles.items()}
    logprobs = servers.cheap is not None and servers.cheap.logprobs
    found = _found(folders)
    if (found.models, found.logprobs) == (models, logprobs):
        return
    step = episode.current_step()
    for model in servers.roles.values():
        model.check(step, sampling)
    failure = servers.judge.failure(step) if servers.judge is not None else None
    if failure is not None:
        failure += f" (found when the run began; delete {folders.servers.name} to ask again)"
    found = _Found(models=models, logprobs=logprobs, judge_fails=failure)
    write_json(folders.servers, asdict(found))
