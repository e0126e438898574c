"""What each data set holds: which rows are made of the tables, and what is reported of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from specact_rl.cluster import Engine
from specact_rl.envs.episodes import NoisyExpert
from specact_rl.errors import ConfigError
from specact_rl.mining.balance import subsample
from specact_rl.mining.chunks import PROPOSALS_FILE, Tables
from specact_rl.mining.data_sets import DataSource, Part, write_data_set
from specact_rl.mining.engines import work_through
from specact_rl.mining.labels import DisagreementTally, LabelTally
from specact_rl.mining.pair_report import (
    count_partings,
    distances_in_words,
    distances_of,
    lengths_in_words,
    partings_in_words,
    total_places,
)
from specact_rl.mining.pairs import (
    APPROX,
    CONTRASTS,
    PAIR_STRATEGIES,
    STEP_STRATEGIES,
    MiningOptions,
    Pair,
    check_caps,
    mine_task,
)
from specact_rl.mining.precision import (
    ContinuationValue,
    Value,
    Verdicts,
    cost_value,
    pair_verdicts,
)
from specact_rl.mining.replays import Replays
from specact_rl.mining.rows import (
    FirstRows,
    SftTarget,
    first_sft_rows,
    first_verifier_rows,
    length_gaps,
    note_sft_rows,
    note_verifier_rows,
    preference_rows,
)
from specact_rl.mining.task_tables import TaskTables
from specact_rl.rendering import Renderer, check_parity
from specact_rl.store import Manifest

CONTINUATION_NOISE = 0.15
"""Share of random actions of the player who measures pair precision by playing on."""

REWARD_STRATEGIES = ("same_prefix", "hard_negative")
"""Of a reward model's pairs, unless others are asked for."""

Balance = Literal["natural", "subsample"]

_NEEDS_PROPOSALS = ("same_prefix", "on_policy")


def build_sft(source: DataSource, *, target: SftTarget = "reference") -> Manifest:
    """Write prompt/completion rows of every step with a known target.

    Raises:
        ConfigError: Inputs or arguments that do not fit, or no row to train on.
    """

    def make(tables: Tables) -> Iterator[Part]:
        first = FirstRows()
        for task in tables.tasks():
            dropped: Counter[str] = Counter()
            for rollout in task.rollouts:
                note_sft_rows(rollout, target, first, dropped)
            yield _without_rows(task, dropped)
        for task in tables.tasks():
            for rollout in task.rollouts:
                rows = first_sft_rows(rollout, source.renderer, target, first)
                check_parity(rows, source.renderer)
                yield Part(key=rollout.rollout_id, task_id=task.task_id, rows=rows)
        yield Part(key="", task_id="", rows=[], dropped=first.dropped())

    return write_data_set("build_sft", source, {"target": target}, make)


def build_verifier(
    source: DataSource, *, balance: Balance = "natural", positive_fraction: float = 0.5
) -> Manifest:
    """Write prompt/completion/label rows of the proposals; KTO reads them, too.

    Args:
        source: With proposals of the proposer that the verifier is to judge.
        balance: "subsample" leaves out train rows until `positive_fraction` of them are
            acceptable; eval rows keep their natural prevalence either way.
        positive_fraction: Only for "subsample".

    Raises:
        ConfigError: Inputs or arguments that do not fit, or no row to train on.
    """
    _need_proposals(source, "build_verifier")
    subsampled = balance == "subsample"
    arguments = {
        "balance": balance,
        "positive_fraction": positive_fraction if subsampled else None,
    }

    labels = LabelTally()
    disagreement = DisagreementTally()

    def make(tables: Tables) -> Iterator[Part]:
        first = FirstRows()
        for task in tables.tasks():
            dropped: Counter[str] = Counter()
            note_verifier_rows(task, first, dropped)
            labels.add(task.proposals)
            disagreement.add(task.proposals)
            yield _without_rows(task, dropped)
        for task in tables.tasks():
            for row in first_verifier_rows(task, source.renderer, first):
                check_parity([row], source.renderer)
                yield Part(key=row["proposal_id"], task_id=task.task_id, rows=[row])
        yield Part(key="", task_id="", rows=[], dropped=first.dropped())

    def balanced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return subsample(rows, positive_fraction=positive_fraction, seed=source.seed)

    return write_data_set(
        "build_verifier",
        source,
        arguments,
        make,
        report=lambda rows: ({"labels": _label_report(labels, disagreement)}, ()),
        thin=balanced if subsampled else None,
    )


def _without_rows(task: TaskTables, dropped: Mapping[str, int]) -> Part:
    """What is counted of a task whose rows come later."""
    return Part(
        key="",
        task_id=task.task_id,
        rows=[],
        dropped=dropped,
        model_ids=frozenset(p.model_id for p in task.proposals),
    )


def build_preferences(
    source: DataSource,
    *,
    strategies: Sequence[str] = ("divergence", "same_prefix"),
    max_per_task: int = 8,
    max_per_step: int = 1,
    max_distance: float = 0.5,
    max_length_ratio: float | None = None,
    max_turn_gap: int | None = None,
    model_id: str | None = None,
    in_environment: bool = False,
    precision_episodes: int = 0,
    allow_unparsable: bool = True,
    engine: Engine = "local",
    stage: str = "build_preferences",
) -> Manifest:
    """Write prompt/chosen/rejected rows of mined pairs, and what they are worth in report.json.

    Args:
        source: With proposals where a strategy needs them.
        strategies: Names in `PAIR_STRATEGIES`, in the order in which duplicates are kept;
            "outcome" (whole trajectories) only alone.
        max_per_task: Cap of each strategy on each task.
        max_per_step: Cap of strategies that can make several pairs of a step.
        max_distance: Of the histories in `approx_prefix`.
        max_length_ratio: Leave out pairs whose longer side has more than so many times the tokens
            of the other; None keeps all, and the README says that they are not matched.
        max_turn_gap: Leave out pairs whose sides differ by more messages; None keeps all.
        model_id: The current proposer, for `on_policy`.
        in_environment: The rollouts are of the workspace: it judges hard negatives, and the
            precision of every strategy is measured in it.
        precision_episodes: Measure by this many continuations a side; 0: by cost-to-go.
        allow_unparsable: Whether unparsable text may be a rejected side.
        engine: Where tasks are mined; changes nothing in the rows.
        stage: Name in the manifest.

    Raises:
        ConfigError: Inputs or arguments that do not fit, or no row to train on.
        EnvironmentFault: `in_environment`, and a rollout cannot be replayed.
    """
    _check_strategies(source, strategies)
    arguments = {
        "strategies": list(strategies),
        "max_per_task": max_per_task,
        "max_per_step": max_per_step,
        "max_distance": max_distance,
        "max_length_ratio": max_length_ratio,
        "max_turn_gap": max_turn_gap,
        "model_id": model_id,
        "in_environment": in_environment,
        "precision_episodes": precision_episodes,
        "allow_unparsable": allow_unparsable,
    }

    options = MiningOptions(
        model_id=model_id, max_per_step=max_per_step, max_distance=max_distance, seed=source.seed
    )
    try:
        check_caps(strategies, options, max_per_task)
    except ValueError as error:
        raise ConfigError(f"{stage}: {error}") from error
    work = PairWork(
        strategies=tuple(strategies),
        options=options,
        max_per_task=max_per_task,
        in_environment=in_environment,
        precision_episodes=precision_episodes,
        allow_unparsable=allow_unparsable,
        max_length_ratio=max_length_ratio,
        max_turn_gap=max_turn_gap,
        renderer=source.renderer,
    )
    verdicts: dict[str, Verdicts] = {}
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    partings: Counter[str] = Counter()

    def make(tables: Tables) -> Iterator[Part]:
        yield Part(key="", task_id="", rows=[], counts=dict.fromkeys(strategies, 0))
        for part in work_through(tables, work, engine):
            for name, found in part.verdicts.items():
                verdicts[name] = verdicts.get(name, Verdicts()) + found
            counts.update(part.counts)
            dropped.update(part.dropped)
            partings.update(part.partings)
            yield part

    def report(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
        reported, words = _pair_report(
            rows,
            {**dict.fromkeys(strategies, 0), **counts},
            dropped,
            partings,
            max_length_ratio=max_length_ratio,
            max_turn_gap=max_turn_gap,
        )
        if in_environment:
            reported["precision"] = _precision_report(verdicts, precision_episodes)
        return reported, words

    return write_data_set(stage, source, arguments, make, report=report)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairWork:
    """The pairs of a task as rows: a function of the task alone, which other processes can run."""

    strategies: tuple[str, ...]
    options: MiningOptions
    max_per_task: int
    in_environment: bool
    precision_episodes: int
    allow_unparsable: bool
    max_length_ratio: float | None
    max_turn_gap: int | None
    renderer: Renderer

    def __call__(self, task: TaskTables) -> Part:
        """Mine, measure, render, and hold the rows against what they are at inference."""
        replays = Replays(task.rollouts) if self.in_environment else None
        options = replace(self.options, is_acceptable=replays.is_acceptable if replays else None)
        mined = mine_task(
            task, strategies=self.strategies, options=options, max_per_task=self.max_per_task
        )
        rows = preference_rows(
            mined.pairs,
            self.renderer,
            allow_unparsable=self.allow_unparsable,
            max_length_ratio=self.max_length_ratio,
            max_turn_gap=self.max_turn_gap,
        )
        has_contrasts = any(name in CONTRASTS for name in self.strategies)
        if "outcome" not in self.strategies:  # a trajectory is no single turn to compare
            check_parity(rows.rows, self.renderer)
        return Part(
            key=task.task_id,
            task_id=task.task_id,
            rows=rows.rows,
            dropped={**mined.dropped, **rows.dropped},
            counts=mined.counts,
            model_ids=frozenset(p.model_id for p in task.proposals),
            verdicts=self._verdicts(mined.pairs, replays) if replays else {},
            partings=total_places(count_partings(task.rollouts)) if has_contrasts else {},
        )

    def _verdicts(self, pairs: Sequence[Pair], replays: Replays) -> dict[str, Verdicts]:
        value: Value = cost_value
        if self.precision_episodes:
            value = ContinuationValue(
                make_policy=lambda rng: NoisyExpert(noise=CONTINUATION_NOISE, rng=rng),
                num_episodes=self.precision_episodes,
                seed=self.options.seed,
            )
        return pair_verdicts(pairs, replays.environment_at, value)


def _pair_report(
    rows: Iterable[dict[str, Any]],
    counts: Mapping[str, int],
    dropped: Mapping[str, int],
    partings: Mapping[str, int],
    *,
    max_length_ratio: float | None,
    max_turn_gap: int | None,
) -> tuple[dict[str, Any], list[str]]:
    """For report.json, and for the README."""
    found: list[float] = []

    def watched() -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["strategy"] == APPROX:
                found.append(row["distance"])
            yield row

    gaps = length_gaps(watched())
    distances = distances_of(found)
    report = {
        "length_gaps": {name: asdict(gap) for name, gap in gaps.items()},
        "approx_prefix_distances": None if distances is None else asdict(distances),
    }
    words = list(
        lengths_in_words(gaps, max_length_ratio=max_length_ratio, max_turn_gap=max_turn_gap)
    )
    if any(name in counts for name in CONTRASTS):
        report["partings"] = dict(partings)
        words.append(partings_in_words(partings))
    if APPROX in counts:
        words.append(distances_in_words(distances, dropped.get(f"{APPROX}:too_distant", 0)))
    unparsable = sum(counts.get(f"{name}:rejected_unparsable", 0) for name in STEP_STRATEGIES)
    if unparsable and not dropped.get("unparsable_rejected"):
        words.append(
            f"In {unparsable:,} of the mined pairs the rejected side is text that could not be "
            "parsed: they teach the format and not the choice of an action."
        )
    return report, [paragraph for paragraph in words if paragraph]


def build_reward(
    source: DataSource,
    *,
    strategies: Sequence[str] = REWARD_STRATEGIES,
    max_per_task: int = 8,
    max_per_step: int = 1,
    max_length_ratio: float | None = None,
    max_turn_gap: int | None = None,
    in_environment: bool = False,
    precision_episodes: int = 0,
    engine: Engine = "local",
) -> Manifest:
    """Write preference rows for a reward model: parsed actions of one step on both sides.

    Raises:
        ConfigError: Inputs or arguments that do not fit, or no row to train on.
        EnvironmentFault: `in_environment`, and a rollout cannot be replayed.
    """
    if "outcome" in strategies:
        raise ConfigError(
            "a reward model here scores one action, so strategy 'outcome' (whole trajectories) "
            "gives it no rows; use build_preferences for those"
        )
    return build_preferences(
        source,
        strategies=strategies,
        max_per_task=max_per_task,
        max_per_step=max_per_step,
        max_length_ratio=max_length_ratio,
        max_turn_gap=max_turn_gap,
        in_environment=in_environment,
        precision_episodes=precision_episodes,
        allow_unparsable=False,
        engine=engine,
        stage="build_reward",
    )


def _check_strategies(source: DataSource, strategies: Sequence[str]) -> None:
    unknown = [name for name in strategies if name not in PAIR_STRATEGIES]
    if unknown or not strategies:
        raise ConfigError(
            f"strategies must be some of {list(PAIR_STRATEGIES)!r}, got {list(strategies)!r}"
        )
    if "outcome" in strategies and len(strategies) > 1:
        raise ConfigError(
            f"'outcome' compares whole trajectories and the others single actions, got "
            f"{list(strategies)!r}; build it into a folder of its own"
        )
    if set(strategies) & set(_NEEDS_PROPOSALS):
        _need_proposals(source, f"strategies {list(strategies)!r}")


def _need_proposals(source: DataSource, what: str) -> None:
    if not source.proposals_dirs:
        raise ConfigError(f"{what} must have proposals, got no folder with {PROPOSALS_FILE}")


def _label_report(labels: LabelTally, disagreement: DisagreementTally) -> dict[str, Any]:
    differing = disagreement.counts()
    return {
        source: {
            **asdict(counts),
            "disagreement_with_match": differing[source].rate if source in differing else None,
        }
        for source, counts in labels.counts().items()
    }


def _precision_report(verdicts: Mapping[str, Verdicts], episodes: int) -> dict[str, Any]:
    return {
        "method": f"{episodes} continuations a side" if episodes else "cost_to_go",
        **{name: asdict(found.precision()) for name, found in sorted(verdicts.items())},
    }
