"""The live stage: whole episodes of every system on the same test tasks."""

from __future__ import annotations

from dataclasses import asdict

from specact_rl.eval.live import LiveEpisode, live_in_shards
from specact_rl.models.language_model import LanguageModel
from specact_rl.pipeline.artifacts import Artifacts
from specact_rl.pipeline.servers import PROPOSERS
from specact_rl.policy.asking import (
    ActionModel,
    LiveVerifier,
    RememberingModel,
    RememberingVerifier,
)
from specact_rl.policy.gates import Gate
from specact_rl.policy.live import LiveSystem
from specact_rl.policy.systems import System
from specact_rl.progress import ProgressBar
from specact_rl.rendering import Renderer
from specact_rl.store import open_stage, read_shards
from specact_rl.verifiers import ClassifierVerifier, StrongJudge

NUM_KEEPING = len(PROPOSERS) + 2
"""Models that keep what they read: those that act, the verifier and the reward model."""

Models = dict[str, RememberingModel]
"""By role; all systems share them."""
Verifiers = dict[str, tuple[LiveVerifier, Renderer | None]]
"""With the renderers of their prompts, by key; all systems share them."""


def run_live_systems(artifacts: Artifacts, progress: ProgressBar) -> dict[str, list[LiveEpisode]]:
    """Each system's episodes, by its name; finished ones are not run again."""
    tasks = artifacts.test_tasks(artifacts.preset.num_live_tasks)
    gates = artifacts.gates()
    parts, servers = artifacts.parts, artifacts.servers
    acting = {role: keeping_prefixes(artifacts.model(role)) for role in parts.proposers}
    models = {role: RememberingModel(model=model) for role, model in acting.items()}
    verifiers = load_verifiers(artifacts, acting["strong"])
    origins = {role: model.origin for role, model in servers.roles.items()}
    episodes = {}
    with progress("live episodes", len(tasks) * len(parts.systems)) as advance:
        for name, system in parts.systems.items():
            folder = artifacts.folders.live(name)
            with open_stage(
                folder,
                "live",
                inputs={"gates": artifacts.folders.gates},
                arguments={
                    "tasks": tasks,
                    "models": {role: model.model_id for role, model in models.items()},
                    "sizes": {
                        role: asdict(model.size) if model.size is not None else None
                        for role, model in models.items()
                    },
                    "system": asdict(system),
                    **({"servers": origins} if origins else {}),
                },
                seed=artifacts.seed,
                overwrite=True,
            ) as stage:
                if not stage.done:
                    whole = live_system(artifacts, system, gates.get(name), models, verifiers)
                    live_in_shards(stage.path, whole, tasks, advance)
                else:
                    advance(len(tasks))
            episodes[name] = read_shards(folder, LiveEpisode)
    return episodes


def keeping_prefixes(model: ActionModel) -> ActionModel:
    """The same model, reading each episode on from where it was; a server has its own way."""
    return model.keeping_prefixes(NUM_KEEPING) if isinstance(model, LanguageModel) else model


def load_verifiers(artifacts: Artifacts, strong: ActionModel) -> Verifiers:
    """Those that systems use; the judge shares with the strong model what that has read."""
    loaded: Verifiers = {}
    systems = artifacts.parts.systems.values()
    for key in sorted({system.verifier or "" for system in systems} - {""}):
        verifier, renderer = artifacts.verifier(key)
        if isinstance(verifier, ClassifierVerifier):
            keeping = verifier.keeping_prefixes(NUM_KEEPING)
            loaded[key] = RememberingVerifier(verifier=keeping), renderer
        elif isinstance(verifier, StrongJudge) and isinstance(strong, LanguageModel):
            # Each round hands it the strong model's proposals of that round.
            loaded[key] = StrongJudge.of(strong, {}), renderer
        else:
            loaded[key] = verifier, renderer
    return loaded


def live_system(
    artifacts: Artifacts,
    system: System,
    gate: Gate | None,
    models: Models,
    verifiers: Verifiers,
) -> LiveSystem:
    """A system put together."""
    verifier, renderer = verifiers[system.verifier] if system.verifier else (None, None)
    return LiveSystem(
        system=system,
        strong=models["strong"],
        proposer=models[system.proposer] if system.proposer else None,
        verifier=verifier,
        renderer=renderer,
        gate=gate,
        sampling=artifacts.sampling(max(system.num_proposals, system.num_compared)),
    )
