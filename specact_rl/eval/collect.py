"""Stages that make the outcome tables: run a model, or a verifier, once over a split.

Each is made in chunks of whole rollouts, every chunk a shard that a killed run finds again.
Processes of a `Team` take turns at the chunks. Beside a folder of a `RowCache` no rollout is run
twice through the same weights, by whatever run.

Memory holds a chunk's rollouts and rows, found in a cache or made. That leaves out what does not
grow with the chunk: the model, what it works with (`models.inference_memory`), tokens and hashes of
up to 65,536 actions. And it leaves out two things that grow with all chunks: the ids of rollouts
passed, and where a server judges, its answers so far.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from specact_rl.errors import ConfigError
from specact_rl.eval.outcomes import (
    Crew,
    Progress,
    Work,
    alone,
    generated_proposals,
    in_shards,
    looking_first,
    ranked_proposals,
    rollout_of,
    split_rows,
    verifier_scores,
)
from specact_rl.eval.ray_crew import Identity, RemoteModel
from specact_rl.eval.team import ALONE, Team
from specact_rl.mining.build_rollouts import iter_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE, SCORES_FILE
from specact_rl.models.chat_client import is_unanswered
from specact_rl.models.language_model import LanguageModel, Proposer, Sampling
from specact_rl.models.server import ModelServer
from specact_rl.models.vllm_engine import VllmModel
from specact_rl.rendering import Renderer
from specact_rl.store import (
    RowCache,
    Stage,
    append_shard,
    content_hash,
    done_shards,
    input_hash,
    iter_shards,
    iter_table,
    open_stage,
    source_hash,
    write_table,
)
from specact_rl.types import Proposal, Rollout, Score, SplitName
from specact_rl.verifiers.base import Verifier
from specact_rl.verifiers.models import ClassifierVerifier, StrongJudge
from specact_rl.verifiers.server_judge import ServerJudge, keeping_answers

_SHARDS = "shards"


def collect_proposals(
    rollouts_dir: Path,
    out_dir: Path,
    lm: Proposer | RemoteModel,
    splits: Collection[SplitName],
    *,
    sampling: Sampling | None,
    tasks: Collection[str] | None = None,
    overwrite: bool = True,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
    team: Team = ALONE,
) -> None:
    """Every step of the splits, proposed once; a killed run goes on where it was.

    Args:
        rollouts_dir: Steps to propose at.
        out_dir: Where the table goes, as `PROPOSALS_FILE`.
        lm: Who proposes. A server's model that keeps its answers already goes on to; for another
            one they are kept until the table is there. A `RemoteModel` proposes on several chunks
            at a time.
        splits: Which tasks.
        sampling: How free text is drawn; None ranks the environment's candidates instead, which
            needs a `LanguageModel`.
        tasks: Only these; None takes all of the splits.
        overwrite: Replace a folder made from other things.
        progress: Called with steps and tokens as they are finished.
        cache_dir: Folder of proposals by their model, sampling and rollout, which other runs fill
            and find; None: there is none. A server's answers are not kept in it.
        team: Processes that share the work.

    Raises:
        ConfigError: The folder holds something else, or the rollouts' one is not finished.
        EnvironmentFault: A rollout of the workspace is not what the workspace makes of its actions.
        ServerError: A server failed for good; its answers up to then are kept for the next time.
    """
    # Beside the stage's unfinished folder, which goes when a price is added or an error is allowed.
    answers = out_dir.with_name(f"{out_dir.name}.answers")
    who = lm.identity if isinstance(lm, RemoteModel) else lm
    crew = _proposers(lm, sampling, answers, input_hash(rollouts_dir))
    if cache_dir is not None and isinstance(lm, LanguageModel | VllmModel | RemoteModel):
        made_by = ["proposals", who.model_id, who.origin, sampling.arguments if sampling else None]
        crew = looking_first(RowCache(cache_dir), partial(_key, made_by), Proposal, crew)

    _proposals_stage(
        team,
        rollouts_dir,
        out_dir,
        who,
        splits,
        fill=lambda shards: in_shards(
            shards,
            (Work(rollout=rollout) for rollout in _rollouts(rollouts_dir, splits, tasks)),
            crew,
            progress=progress,
            team=team,
        ),
        sampling=sampling,
        tasks=tasks,
        overwrite=overwrite,
    )
    if team.leads:
        shutil.rmtree(answers, ignore_errors=True)


def collect_judged_proposals(
    rollouts_dir: Path,
    out_dir: Path,
    strong: LanguageModel,
    splits: Collection[SplitName],
    *,
    sampling: Sampling,
    judged_dir: Path,
    scores_dir: Path,
    num_judged: int | None = None,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> None:
    """What the strong model proposes, and what it thinks as judge of another's proposals.

    The two tables are those of `collect_proposals` and of `collect_scores` by a `StrongJudge`, with
    each history read once for both. What is there of either is not made again; a folder that was
    made from other things is replaced.

    Args:
        rollouts_dir: The steps.
        out_dir: Where the strong model's proposals go.
        strong: Who proposes and judges.
        splits: Whose steps.
        sampling: How it proposes; the first sample is what it compares with.
        judged_dir: The other's proposals, in the order of the rollouts.
        scores_dir: Where the scores go.
        num_judged: Judge the first so many samples of a step; None judges all.
        progress: Called with steps and tokens as the proposals are finished.
        team: Processes that share the work.

    Raises:
        ConfigError: As of the two.
    """
    strong = strong.keeping_prefixes()
    own: dict[str, Proposal] = {}
    judge = StrongJudge.of(strong, own)
    scores: list[Score] = []

    def propose_and_judge(works: Sequence[Work]) -> list[list[Proposal]]:
        made = []
        scores.clear()
        for part in _of_tokens(works, strong):
            rollouts = [work.rollout for work in part]
            proposals = generated_proposals(strong, rollouts, sampling)
            own.update({p.step_id: p for p in proposals if p.sample == 0})
            judged = list(chain.from_iterable(work.proposals for work in part))
            scores.extend(verifier_scores(judge, rollouts, judged, strong.renderer))
            made.append(proposals)
        return made

    def propose_first(scores_shards: Path) -> None:
        done = set(done_shards(scores_shards))

        def keep_scores(index: int) -> None:
            if index not in done:
                append_shard(scores_shards, index, scores)

        def fill(shards: Path) -> None:
            found = _rollouts(rollouts_dir, splits, None)
            works = _with_proposals(found, judged_dir / PROPOSALS_FILE, num_judged)
            in_shards(
                shards,
                works,
                alone(propose_and_judge),
                progress=progress,
                team=team,
                before_kept=keep_scores,
            )

        _proposals_stage(team, rollouts_dir, out_dir, strong, splits, fill=fill, sampling=sampling)
        # For what is left to judge where proposals were there and scores were not.
        found = iter_table(out_dir / PROPOSALS_FILE, Proposal)
        own.update({p.step_id: p for p in found if p.sample == 0})

    collect_scores(
        rollouts_dir,
        judged_dir,
        scores_dir,
        judge,
        strong.renderer,
        splits,
        num_samples=num_judged,
        team=team,
        first=propose_first,
    )
    # For where scores were there and proposals were not.
    collect_proposals(
        rollouts_dir, out_dir, strong, splits, sampling=sampling, progress=progress, team=team
    )


def _of_tokens(works: Sequence[Work], strong: LanguageModel) -> Iterator[Sequence[Work]]:
    """Parts of which all that is read can be kept, or of one rollout."""
    assert strong.kept is not None
    start = total = 0
    for stop, work in enumerate(works):
        length = len(strong.renderer.rollout_ids(work.rollout).ids)
        if stop > start and total + length > strong.kept.max_tokens:
            yield works[start:stop]
            strong.kept.clear()
            start, total = stop, 0
        total += length
    yield works[start:]
    strong.kept.clear()


def _proposers(
    proposer: Proposer | RemoteModel, sampling: Sampling | None, answers: Path, rollouts_hash: str
) -> Crew[Proposal]:
    """Who proposes on the chunks; a server's answers are kept in a file for each of them."""
    if isinstance(proposer, RemoteModel):
        return proposer.made_by(
            ranked_over if sampling is None else partial(generated_over, sampling=sampling)
        )
    if sampling is not None:

        def generate(works: Sequence[Work]) -> list[list[Proposal]]:
            first = works[0].rollout.rollout_id
            key = [rollouts_hash, proposer.model_id, sampling.arguments, first]
            kept = proposer
            if not isinstance(proposer, ModelServer) or proposer.kept is None:
                kept = proposer.keeping(answers / f"{content_hash(key)}.jsonl")
            return generated_over(kept, works, sampling=sampling)

        return alone(generate)
    if not isinstance(proposer, LanguageModel):
        raise ConfigError(
            f"candidates are ranked by a loaded model, got {proposer.model_id}; give a checkpoint"
        )
    return alone(partial(ranked_over, proposer))


def generated_over(
    proposer: Proposer, works: Sequence[Work], *, sampling: Sampling
) -> list[list[Proposal]]:
    """Free-text proposals of each piece of work."""
    rollouts = [work.rollout for work in works]
    counts = [len(rollout.steps) * sampling.num_samples for rollout in rollouts]
    return split_rows(generated_proposals(proposer, rollouts, sampling), counts)


def ranked_over(lm: LanguageModel, works: Sequence[Work]) -> list[list[Proposal]]:
    """The likeliest candidates of each piece of work."""
    rollouts = [work.rollout for work in works]
    return split_rows(ranked_proposals(lm, rollouts), [len(rollout.steps) for rollout in rollouts])


def _proposals_stage(
    team: Team,
    rollouts_dir: Path,
    out_dir: Path,
    lm: Proposer | Identity,
    splits: Collection[SplitName],
    *,
    fill: Callable[[Path], None],
    sampling: Sampling | None,
    tasks: Collection[str] | None = None,
    overwrite: bool = True,
) -> None:
    """The table of a model's proposals, of shards that `fill` makes."""

    def finish(stage: Stage) -> None:
        counts = _Counts()
        rows = iter_shards(stage.path / _SHARDS, Proposal)
        write_table(stage.path / PROPOSALS_FILE, counts.over(rows))
        stage.counts |= counts.of_proposals()

    _fill_together(
        team,
        out_dir,
        "collect_proposals",
        fill=fill,
        finish=finish,
        inputs={"rollouts": rollouts_dir},
        arguments={
            "model_id": lm.model_id,
            **lm.origin,
            "splits": sorted(splits),
            "tasks": None if tasks is None else sorted(tasks),
            "sampling": sampling.arguments if sampling else None,
        },
        seed=sampling.seed if sampling else None,
        overwrite=overwrite,
    )


class _Counts:
    """Counted while rows pass by."""

    def __init__(self) -> None:
        names = ("steps", "proposals", "unparsable", "acceptable", "unknown_label", "unanswered")
        self._found = Counter(dict.fromkeys((*names, "distinct"), 0))

    def over(self, proposals: Iterator[Proposal]) -> Iterator[Proposal]:
        """The proposals themselves."""
        last: str | None = None
        distinct = 0  # of the step so far
        for p in proposals:
            if p.step_id != last:
                distinct = 0
            so_far = p.num_distinct or 0
            self._found.update(
                steps=p.step_id != last,
                proposals=1,
                unparsable=not p.parsed,
                acceptable=bool(p.acceptable),
                unknown_label=p.acceptable is None,
                unanswered=is_unanswered(p),
                distinct=so_far - distinct,
            )
            last, distinct = p.step_id, so_far
            yield p

    def of_proposals(self) -> dict[str, int]:
        """All of them, by name."""
        return dict(self._found)


def collect_scores(
    rollouts_dir: Path,
    proposals_dir: Path,
    out_dir: Path,
    verifier: Verifier | RemoteModel,
    renderer: Renderer | None,
    splits: Collection[SplitName],
    *,
    num_samples: int | None = None,
    overwrite: bool = True,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
    team: Team = ALONE,
    first: Callable[[Path], None] | None = None,
) -> None:
    """Every proposal of a table, judged once; a killed run goes on where it was.

    Args:
        rollouts_dir: The steps.
        proposals_dir: The proposals, in the order of the rollouts.
        out_dir: Where the scores go, as `SCORES_FILE`.
        verifier: Who judges; of a server's answers as in `collect_proposals`. A `RemoteModel` does
            it on several chunks at a time.
        renderer: Of its prompts; None for verifiers that read no tokens of ours, and for a
            `RemoteModel`, which has one.
        splits: Whose steps.
        num_samples: Judge the first so many samples of a step and see no others; None judges all.
        overwrite: Replace a folder made from other things.
        progress: Called with steps and tokens as they are finished.
        cache_dir: Folder of a `ClassifierVerifier`'s scores by its weights, rollout and proposals;
            None: there is none. What others depend on besides is not known, and not kept in it.
        team: Processes that share the work.
        first: Called with the folder of the scores' shards before what is missing there is made.

    Raises:
        ConfigError: The folder holds something else, an input folder is not finished, or the
            proposals are in another order than the rollouts.
        ServerError: A server failed for good; its answers up to then are kept for the next time.
    """
    answers = out_dir.with_name(f"{out_dir.name}.answers")
    crew: Crew[Score]
    origin: dict[str, Any]
    if isinstance(verifier, RemoteModel):
        verifier_id, origin = verifier.identity.model_id, verifier.identity.origin
        template: str | None = verifier.identity.template_hash
        crew = verifier.made_by(judged_as_trained)
    else:
        verifier_id = verifier.verifier_id
        origin = verifier.origin if isinstance(verifier, ClassifierVerifier | ServerJudge) else {}
        template = None if renderer is None else renderer.template_hash
        crew = alone(partial(_judged_and_kept, verifier, answers, renderer=renderer))
    if cache_dir is not None and isinstance(verifier, ClassifierVerifier | RemoteModel):
        made_by = ["scores", verifier_id, origin, template]
        crew = looking_first(RowCache(cache_dir), partial(_key, made_by), Score, crew)

    def finish(stage: Stage) -> None:
        unscored = 0

        def counted() -> Iterator[Score]:
            nonlocal unscored
            for score in iter_shards(stage.path / _SHARDS, Score):
                unscored += score.log_odds is None
                yield score

        number = write_table(stage.path / SCORES_FILE, counted())
        stage.counts |= {"scores": number, "unscored": unscored}

    def fill(shards: Path) -> None:
        if first is not None:
            first(shards)
        works = _with_proposals(
            _rollouts(rollouts_dir, splits, None), proposals_dir / PROPOSALS_FILE, num_samples
        )
        in_shards(shards, works, crew, progress=progress, team=team)

    _fill_together(
        team,
        out_dir,
        "collect_scores",
        fill=fill,
        finish=finish,
        inputs={"rollouts": rollouts_dir, "proposals": proposals_dir},
        arguments={
            "verifier_id": verifier_id,
            **origin,
            "splits": sorted(splits),
            "num_samples": num_samples,
        },
        overwrite=overwrite,
    )
    if team.leads:
        shutil.rmtree(answers, ignore_errors=True)


def judged_over(
    verifier: Verifier, works: Sequence[Work], *, renderer: Renderer | None
) -> list[list[Score]]:
    """Scores of each piece of work."""
    proposals = list(chain.from_iterable(work.proposals for work in works))
    scores = verifier_scores(verifier, [work.rollout for work in works], proposals, renderer)
    return split_rows(scores, [len(work.proposals) for work in works])


def _judged_and_kept(
    verifier: Verifier, answers: Path, works: Sequence[Work], *, renderer: Renderer | None
) -> list[list[Score]]:
    # Of the chunk, whoever takes it: the next time there may be another number of processes.
    key = content_hash([verifier.verifier_id, works[0].rollout.rollout_id])
    judging = keeping_answers(verifier, answers / f"{key}.jsonl")
    return judged_over(judging, works, renderer=renderer)


def judged_as_trained(verifier: ClassifierVerifier, works: Sequence[Work]) -> list[list[Score]]:
    """Scores of each piece of work, its prompts rendered as the checkpoint's were."""
    return judged_over(verifier, works, renderer=verifier.renderer)


def _rollouts(
    folder: Path, splits: Collection[SplitName], tasks: Collection[str] | None
) -> Iterator[Rollout]:
    found = iter_rollouts(folder, splits)
    return (rollout for rollout in found if tasks is None or rollout.task_id in tasks)


def _with_proposals(
    rollouts: Iterator[Rollout], path: Path, num_samples: int | None
) -> Iterator[Work]:
    """Rollouts with their proposals, from a table that has those of other rollouts between them.

    Raises:
        ConfigError: A rollout's proposals come before those of an earlier one.
    """
    rows = groupby(iter_table(path, Proposal), key=lambda proposal: rollout_of(proposal.step_id))
    passed: set[str] = set()
    for rollout in rollouts:
        proposals: list[Proposal] = []
        if rollout.steps and rollout.rollout_id not in passed:
            for rollout_id, group in rows:
                passed.add(rollout_id)
                if rollout_id == rollout.rollout_id:
                    proposals = [p for p in group if num_samples is None or p.sample < num_samples]
                    break
        if rollout.steps and not proposals:
            raise ConfigError(
                f"{path} must have proposals at the steps of all rollouts, in their order, but "
                f"those of {rollout.rollout_id!r} are missing or come too early; propose again"
            )
        yield Work(rollout=rollout, proposals=proposals)


def _key(made_by: Sequence[Any], work: Work) -> str:
    """Of the rows of a piece of work, in a cache of all versions of the code."""
    rows = [asdict(work.rollout), [asdict(proposal) for proposal in work.proposals]]
    return content_hash([source_hash(), *made_by, *rows])


def _fill_together(
    team: Team,
    folder: Path,
    name: str,
    *,
    fill: Callable[[Path], None],
    finish: Callable[[Stage], None],
    **of_stage: Any,
) -> None:
    """A stage whose shards all processes fill, and whose table the first one makes of them.

    Args:
        team: The processes, which all come here.
        folder: Of the stage.
        name: Of the stage.
        fill: Fills this process's shards in the folder that it gets.
        finish: Makes the table when all shards are there.
        **of_stage: As of `open_stage`.
    """
    if not team.leads:
        unfinished = team.told_by_first(None)
        if unfinished is not None:
            fill(Path(unfinished) / _SHARDS)
            team.wait()
    else:
        with open_stage(folder, name, **of_stage) as stage:
            team.told_by_first(None if stage.done else str(stage.path))
            if not stage.done:
                fill(stage.path / _SHARDS)
                team.wait()
                finish(stage)
                shutil.rmtree(stage.path / _SHARDS)
    team.wait()
