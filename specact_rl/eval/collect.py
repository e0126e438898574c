"""Stages that make the outcome tables: run a model, or a verifier, once over a split."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from specact_rl.errors import ConfigError
from specact_rl.eval.outcomes import (
    Progress,
    generated_proposals,
    proposals_in_shards,
    ranked_proposals,
    scores_in_shards,
)
from specact_rl.mining.build_rollouts import read_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE, SCORES_FILE
from specact_rl.models.chat_client import is_unanswered
from specact_rl.models.language_model import LanguageModel, Proposer, Sampling
from specact_rl.rendering import Renderer
from specact_rl.store import content_hash, input_hash, open_stage, read_table, write_table
from specact_rl.types import Proposal, Rollout, Score, SplitName
from specact_rl.verifiers.base import Verifier

_SHARDS = "shards"


def collect_proposals(
    rollouts_dir: Path,
    out_dir: Path,
    lm: Proposer,
    splits: Collection[SplitName],
    *,
    sampling: Sampling | None,
    tasks: Collection[str] | None = None,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> list[Proposal]:
    """Every step of the splits, proposed once; a killed run goes on where it was.

    Args:
        rollouts_dir: Steps to propose at.
        out_dir: Where the table goes.
        lm: Who proposes.
        splits: Which tasks.
        sampling: How free text is drawn; None ranks the environment's candidates instead, which
            needs a `LanguageModel`.
        tasks: Only these; None takes all of the splits.
        overwrite: Replace a folder made from other things.
        progress: Called with the number of rollouts just finished.

    Raises:
        ConfigError: The folder holds something else, or the rollouts' one is not finished.
        EnvironmentFault: A rollout of the workspace is not what the workspace makes of its actions.
        ServerError: A server failed for good; its answers up to then are kept for the next time.
    """
    arguments = {
        "model_id": lm.model_id,
        **lm.origin,
        "splits": sorted(splits),
        "tasks": None if tasks is None else sorted(tasks),
        "sampling": asdict(sampling) if sampling else None,
    }
    # Beside the stage's unfinished folder, which goes when a price is added or an error is allowed.
    answers = out_dir.with_name(f"{out_dir.name}.answers")
    with open_stage(
        out_dir,
        "collect_proposals",
        inputs={"rollouts": rollouts_dir},
        arguments=arguments,
        seed=sampling.seed if sampling else None,
        overwrite=overwrite,
    ) as stage:
        if not stage.done:
            rollouts = read_rollouts(rollouts_dir, splits)
            if tasks is not None:
                rollouts = [rollout for rollout in rollouts if rollout.task_id in tasks]
            shards = stage.path / _SHARDS
            propose = _propose_by(lm, sampling, answers, input_hash(rollouts_dir))
            proposals = proposals_in_shards(shards, rollouts, propose, progress)
            write_table(stage.path / PROPOSALS_FILE, proposals)
            shutil.rmtree(shards)
            stage.counts |= {
                "steps": len({p.step_id for p in proposals}),
                "proposals": len(proposals),
                "unparsable": sum(not p.parsed for p in proposals),
                "acceptable": sum(bool(p.acceptable) for p in proposals),
                "unknown_label": sum(p.acceptable is None for p in proposals),
                "unanswered": sum(is_unanswered(p) for p in proposals),
            }
    shutil.rmtree(answers, ignore_errors=True)
    return read_table(out_dir / PROPOSALS_FILE, Proposal)


def _propose_by(
    proposer: Proposer, sampling: Sampling | None, answers: Path, rollouts_hash: str
) -> Callable[[Sequence[Rollout]], list[Proposal]]:
    """What proposes on a shard's rollouts, keeping its answers in a file of their own."""
    if sampling is not None:

        def generate(rollouts: Sequence[Rollout]) -> list[Proposal]:
            key = [rollouts_hash, proposer.model_id, asdict(sampling), rollouts[0].rollout_id]
            kept = proposer.keeping(answers / f"{content_hash(key)}.jsonl")
            return generated_proposals(kept, rollouts, sampling)

        return generate
    if not isinstance(proposer, LanguageModel):
        raise ConfigError(
            f"candidates are ranked by a loaded model, got {proposer.model_id}; give a checkpoint"
        )
    return lambda rollouts: ranked_proposals(proposer, rollouts)


def collect_scores(
    rollouts_dir: Path,
    proposals_dir: Path,
    out_dir: Path,
    verifier: Verifier,
    renderer: Renderer,
    splits: Collection[SplitName],
    *,
    num_samples: int | None = None,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> list[Score]:
    """Every proposal of a table, judged once; a killed run goes on where it was.

    Args:
        rollouts_dir: The steps.
        proposals_dir: The proposals.
        out_dir: Where the scores go.
        verifier: Who judges.
        renderer: Of its prompts.
        splits: Whose steps.
        num_samples: Judge the first so many samples of a step and see no others; None judges all.
        overwrite: Replace a folder made from other things.
        progress: Called with the number of rollouts just finished.

    Raises:
        ConfigError: The folder holds something else, or an input folder is not finished.
    """
    with open_stage(
        out_dir,
        "collect_scores",
        inputs={"rollouts": rollouts_dir, "proposals": proposals_dir},
        arguments={
            "verifier_id": verifier.verifier_id,
            "splits": sorted(splits),
            "num_samples": num_samples,
        },
        overwrite=overwrite,
    ) as stage:
        if not stage.done:
            rollouts = read_rollouts(rollouts_dir, splits)
            wanted = {step.step_id for rollout in rollouts for step in rollout.each_step()}
            proposals = [
                p
                for p in read_table(proposals_dir / PROPOSALS_FILE, Proposal)
                if p.step_id in wanted and (num_samples is None or p.sample < num_samples)
            ]
            shards = stage.path / _SHARDS
            scores = scores_in_shards(shards, rollouts, proposals, verifier, renderer, progress)
            write_table(stage.path / SCORES_FILE, scores)
            shutil.rmtree(shards)
            stage.counts |= {
                "scores": len(scores),
                "unscored": sum(score.log_odds is None for score in scores),
            }
    return read_table(out_dir / SCORES_FILE, Score)
