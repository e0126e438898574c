"""Data sets of single actions: right and wrong ones for KTO, rewarded ones for weighting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specact_rl.errors import ConfigError
from specact_rl.mining.chunks import PROPOSALS_FILE, SCORES_FILE, Tables
from specact_rl.mining.data_sets import DataSource, Part, write_data_set
from specact_rl.mining.task_tables import TaskTables
from specact_rl.mining.unpaired_rows import (
    UNPARSABLE,
    ActionSource,
    Copies,
    Judge,
    JudgedAction,
    Judgement,
    judged_actions,
    unpaired_row,
)
from specact_rl.rendering import check_parity
from specact_rl.store import Manifest, input_hash, iter_table
from specact_rl.types import MatchLevel, Score


def build_kto(
    source: DataSource,
    *,
    judged_by: Judge = "label",
    sources: Sequence[ActionSource] = ("proposals",),
    level: MatchLevel = "arguments",
    allow_unparsable: bool = True,
) -> Manifest:
    """Write prompt/completion/label rows of right and wrong actions, one of each kind.

    Unlike a verifier's, they hold text that could not be parsed, as what not to write. Equal
    actions that are right once and wrong once are none.

    Args:
        source: With proposals, if they are among the `sources`.
        judged_by: What makes an action right; not "score", which has no zero.
        sources: Whose actions.
        level: Of "match".
        allow_unparsable: Whether text that could not be parsed is a row.

    Raises:
        ConfigError: Inputs or arguments that do not fit, or no row to train on.
    """
    if judged_by == "score":
        raise ConfigError("build_kto: a score does not say right or wrong; use build_weighted")
    judgement = _judgement("build_kto", source, judged_by, sources, level, None)

    def columns(judged: JudgedAction, copies: Copies) -> dict[str, Any] | None:
        return {"label": judged.value > 0} if copies.agree(judged) else None

    return _build("build_kto", source, judgement, {}, columns, allow_unparsable, _label_report)


def build_weighted(
    source: DataSource,
    *,
    judged_by: Judge = "label",
    sources: Sequence[ActionSource] = ("proposals",),
    level: MatchLevel = "arguments",
    scores_dir: Path | None = None,
    allow_unparsable: bool = True,
) -> Manifest:
    """Write prompt/completion/reward rows; equal actions have the mean of their rewards.

    Args:
        source: With proposals, if they are among the `sources`.
        judged_by: What the reward is.
        sources: Whose actions.
        level: Of "match".
        scores_dir: Folder with a scores table of these proposals; for "score" only.
        allow_unparsable: Whether text that could not be parsed is a row.

    Raises:
        ConfigError: Inputs or arguments that do not fit, or no row to train on.
    """
    judgement = _judgement("build_weighted", source, judged_by, sources, level, scores_dir)
    scores_hash = None if scores_dir is None else input_hash(scores_dir)

    def columns(judged: JudgedAction, copies: Copies) -> dict[str, Any]:
        return {"reward": copies.mean(judged)}

    return _build(
        "build_weighted",
        source,
        judgement,
        {"scores": scores_hash},
        columns,
        allow_unparsable,
        _reward_report,
    )


def _judgement(
    name: str,
    source: DataSource,
    judged_by: Judge,
    sources: Sequence[ActionSource],
    level: MatchLevel,
    scores_dir: Path | None,
) -> Judgement:
    if "proposals" in sources and not source.proposals_dirs:
        raise ConfigError(f"{name} of proposals must have a folder with {PROPOSALS_FILE}, got none")
    if (judged_by == "score") != (scores_dir is not None):
        raise ConfigError(
            f"{name}: judged by a score and a scores folder go together, got judged_by "
            f"{judged_by!r} and scores {scores_dir!s}"
        )
    try:
        return Judgement(
            judged_by=judged_by,
            sources=tuple(sources),
            level=level,
            scores={} if scores_dir is None else _scores(scores_dir),
        )
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def _scores(folder: Path) -> dict[str, float | None]:
    """What one verifier said, by proposal."""
    path = folder / SCORES_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} must be a scores folder, but has no {SCORES_FILE}")
    scores: dict[str, float | None] = {}
    verifiers: set[str] = set()
    for score in iter_table(path, Score):
        scores[score.proposal_id] = score.log_odds
        verifiers.add(score.verifier_id)
    if len(verifiers) > 1:
        raise ConfigError(
            f"{path} must have the scores of one verifier, got those of {sorted(verifiers)!r}"
        )
    return scores


def _build(
    name: str,
    source: DataSource,
    judgement: Judgement,
    arguments: Mapping[str, Any],
    columns: Callable[[JudgedAction, Copies], dict[str, Any] | None],
    allow_unparsable: bool,
    report: Callable[[Iterable[dict[str, Any]]], tuple[dict[str, Any], Sequence[str]]],
) -> Manifest:
    def actions(task: TaskTables, dropped: Counter[str]) -> Iterator[JudgedAction]:
        for judged in judged_actions(task, judgement, dropped):
            if judged.side.action is None and not allow_unparsable:
                dropped[UNPARSABLE] += 1
            else:
                yield judged

    def make(tables: Tables) -> Iterator[Part]:
        copies = Copies()
        for task in tables.tasks():
            dropped: Counter[str] = Counter()
            for judged in actions(task, dropped):
                copies.add(judged)
            yield Part(
                key="",
                task_id=task.task_id,
                rows=[],
                dropped=dropped,
                model_ids=frozenset(p.model_id for p in task.proposals),
            )
        contradictory = 0
        for task in tables.tasks():
            for judged in actions(task, Counter()):
                if not copies.is_first(judged):
                    continue
                found = columns(judged, copies)
                if found is None:
                    contradictory += 1
                    continue
                row = unpaired_row(judged, source.renderer, copies.number(judged), **found)
                check_parity([row], source.renderer)
                key = f"{judged.step.step_id}/{judged.side.source_id}"
                yield Part(key=key, task_id=task.task_id, rows=[row])
        dropped = Counter(duplicate=copies.num_duplicates, contradictory_value=contradictory)
        yield Part(key="", task_id="", rows=[], dropped=dropped)

    recorded = {
        "judged_by": judgement.judged_by,
        "sources": list(judgement.sources),
        "level": judgement.level if judgement.judged_by == "match" else None,
        "allow_unparsable": allow_unparsable,
        **arguments,
    }
    return write_data_set(name, source, recorded, make, report=report)


def _label_report(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    labels: Counter[tuple[str, bool]] = Counter()
    unparsable = 0
    for row in rows:
        labels[row["source"], row["label"]] += 1
        unparsable += row["action_type"] == UNPARSABLE
    right = sum(count for (_, label), count in labels.items() if label)
    wrong = labels.total() - right
    by_source = {
        name: {"right": labels[name, True], "wrong": labels[name, False]}
        for name in sorted({name for name, _ in labels})
    }
    words = (
        f"{right:,} rows are right and {wrong:,} wrong, {unparsable:,} of them text that could not "
        "be parsed. KTO wants what the two sides weigh in all, weight times number, to be between "
        "1:1 and 4:3 (`recipes/kto_proposer.py` sees to it)."
    )
    return {"labels": by_source, "num_unparsable": unparsable}, [words]


def _reward_report(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    unparsable = 0
    for row in rows:
        prompt, reward = row["history_hash"], row["reward"]
        lowest[prompt] = min(reward, lowest.get(prompt, reward))
        highest[prompt] = max(reward, highest.get(prompt, reward))
        rewards[row["source"]].append(reward)
        unparsable += row["action_type"] == UNPARSABLE
    differing = sum(lowest[prompt] < highest[prompt] for prompt in lowest)
    report = {
        "rewards": {
            name: {
                "num_rows": len(found),
                "mean": sum(found) / len(found),
                "min": min(found),
                "max": max(found),
            }
            for name, found in sorted(rewards.items())
        },
        "num_prompts": len(lowest),
        "num_prompts_with_several_rewards": differing,
        "num_unparsable": unparsable,
    }
    words = (
        f"Of {len(lowest):,} prompts {differing:,} have rows of different reward; the others say "
        "nothing of what is better there. `num_samples` is how many equal actions a row stands for."
    )
    return report, [words]
