"""What each data set holds: which rows are made of the tables, and what is reported of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from specact_rl.envs.episodes import NoisyExpert
from specact_rl.errors import ConfigError
from specact_rl.mining.balance import subsample
from specact_rl.mining.data_sets import PROPOSALS_FILE, Built, DataSource, Tables, write_data_set
from specact_rl.mining.labels import (
    count_labels,
    label_disagreement,
    without_faulty_labels,
)
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
    MiningResult,
    Pair,
    mine_pairs,
)
from specact_rl.mining.precision import ContinuationValue, Value, cost_value, pair_precision
from specact_rl.mining.replays import Replays
from specact_rl.mining.rows import (
    Rows,
    SftTarget,
    length_gaps,
    preference_rows,
    sft_rows,
    verifier_rows,
)
from specact_rl.store import Manifest
from specact_rl.types import Proposal

CONTINUATION_NOISE = 0.15
"""Share of random actions of the player who measures pair precision by playing on."""

Balance = Literal["natural", "subsample"]

_NEEDS_PROPOSALS = ("same_prefix", "on_policy")


def build_sft(source: DataSource, *, target: SftTarget = "reference") -> Manifest:
    """Write prompt/completion rows of every step with a known target.

    Raises:
        ConfigError: Inputs or arguments that do not fit, or no row to train on.
    """

    def make(tables: Tables) -> Built:
        return Built(rows=sft_rows(tables.rollouts, source.renderer, target=target))

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

    def make(tables: Tables) -> Built:
        steps = {step.step_id: step for r in tables.rollouts for step in r.each_step()}
        proposals = without_faulty_labels(tables.proposals, tables.rollouts)
        return Built(
            rows=verifier_rows(proposals, steps, source.renderer),
            report={"labels": _label_report(proposals)},
        )

    def balanced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return subsample(rows, positive_fraction=positive_fraction, seed=source.seed)

    return write_data_set(
        "build_verifier", source, arguments, make, thin=balanced if subsampled else None
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

    def make(tables: Tables) -> Built:
        replays = Replays(tables.rollouts) if in_environment else None
        options = MiningOptions(
            model_id=model_id,
            is_acceptable=replays.is_acceptable if replays else None,
            max_per_step=max_per_step,
            max_distance=max_distance,
            seed=source.seed,
        )
        mined = mine_pairs(
            tables.rollouts,
            tables.proposals,
            strategies=strategies,
            options=options,
            max_per_task=max_per_task,
        )
        rows = preference_rows(
            mined.pairs,
            source.renderer,
            allow_unparsable=allow_unparsable,
            max_length_ratio=max_length_ratio,
            max_turn_gap=max_turn_gap,
        )
        report, words = _pair_report(
            tables, mined, rows, max_length_ratio=max_length_ratio, max_turn_gap=max_turn_gap
        )
        if replays is not None:
            report["precision"] = _precision_report(
                mined.pairs, replays, precision_episodes, source.seed
            )
        return Built(
            rows=Rows(rows=rows.rows, dropped={**mined.dropped, **rows.dropped}),
            counts=mined.counts,
            report=report,
            words=words,
        )

    return write_data_set(stage, source, arguments, make, one_action="outcome" not in strategies)


def _pair_report(
    tables: Tables,
    mined: MiningResult,
    rows: Rows,
    *,
    max_length_ratio: float | None,
    max_turn_gap: int | None,
) -> tuple[dict[str, Any], list[str]]:
    """For report.json, and for the README."""
    gaps = length_gaps(rows.rows)
    distances = distances_of([r["distance"] for r in rows.rows if r["strategy"] == APPROX])
    report = {
        "length_gaps": {name: asdict(gap) for name, gap in gaps.items()},
        "approx_prefix_distances": None if distances is None else asdict(distances),
    }
    words = list(
        lengths_in_words(gaps, max_length_ratio=max_length_ratio, max_turn_gap=max_turn_gap)
    )
    if any(name in mined.counts for name in CONTRASTS):
        places = total_places(count_partings(tables.rollouts))
        report["partings"] = places
        words.append(partings_in_words(places))
    if APPROX in mined.counts:
        too_distant = mined.dropped.get(f"{APPROX}:too_distant", 0)
        words.append(distances_in_words(distances, too_distant))
    unparsable = sum(mined.counts.get(f"{name}:rejected_unparsable", 0) for name in STEP_STRATEGIES)
    if unparsable and not rows.dropped.get("unparsable_rejected"):
        words.append(
            f"In {unparsable:,} of the mined pairs the rejected side is text that could not be "
            "parsed: they teach the format and not the choice of an action."
        )
    return report, [paragraph for paragraph in words if paragraph]


def build_reward(
    source: DataSource,
    *,
    strategies: Sequence[str] = ("same_prefix", "hard_negative"),
    max_per_task: int = 8,
    max_per_step: int = 1,
    max_length_ratio: float | None = None,
    max_turn_gap: int | None = None,
    in_environment: bool = False,
    precision_episodes: int = 0,
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


def _label_report(proposals: Sequence[Proposal]) -> dict[str, Any]:
    disagreement = label_disagreement(proposals)
    return {
        source: {
            **asdict(counts),
            "disagreement_with_match": (
                disagreement[source].rate if source in disagreement else None
            ),
        }
        for source, counts in count_labels(proposals).items()
    }


def _precision_report(
    pairs: Sequence[Pair], replays: Replays, episodes: int, seed: int
) -> dict[str, Any]:
    value: Value = cost_value
    if episodes:
        value = ContinuationValue(
            make_policy=lambda rng: NoisyExpert(noise=CONTINUATION_NOISE, rng=rng),
            num_episodes=episodes,
            seed=seed,
        )
    measured = pair_precision(pairs, replays.environment_at, value)
    return {
        "method": f"{episodes} continuations a side" if episodes else "cost_to_go",
        **{name: asdict(precision) for name, precision in measured.items()},
    }
