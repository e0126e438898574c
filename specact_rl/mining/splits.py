"""Tasks to splits, once, so that nothing that belongs together is parted.

The split of a task depends on the seed and its id alone: more tasks, or another order, move none,
unless they tie two groups together.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

from pydantic import TypeAdapter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from specact_rl.actions.canonical import canonical_text
from specact_rl.store import canonical_json, content_hash
from specact_rl.types import SPLITS, Message, Rollout, SplitName, ToolSpec

_TOOLS = TypeAdapter(list[ToolSpec])

logger = logging.getLogger(__name__)

DEFAULT_FRACTIONS: dict[SplitName, float] = {
    "train_proposer": 0.4,
    "train_verifier": 0.25,
    "calibration": 0.15,
    "test": 0.2,
}


def assign_splits(
    rollouts: Sequence[Rollout],
    *,
    fractions: Mapping[SplitName, float],
    seed: int,
    held_out_families: Collection[str] = (),
) -> list[Rollout]:
    """The rollouts with their split from `draw_splits`, in the same order.

    Raises:
        ValueError: Fractions that are no distribution, or a held-out family that is not there.
    """
    splits = draw_splits(
        rollouts, fractions=fractions, seed=seed, held_out_families=held_out_families
    )
    return [with_split(rollout, splits, held_out_families) for rollout in rollouts]


def draw_splits(
    rollouts: Iterable[Rollout],
    *,
    fractions: Mapping[SplitName, float],
    seed: int,
    held_out_families: Collection[str] = (),
) -> dict[str, SplitName]:
    """The split of each task.

    Tasks with an equal `request_key` or `situation_key` form a group, and a group goes into one
    split, drawn by the hash of the seed and its smallest task id; so shares are met on average
    only.

    Args:
        rollouts: Iterated over once, none of them kept. Any split they have is ignored.
        fractions: Share of the groups by split, sum 1; a split that is not named gets none.
        seed: Another seed is another draw.
        held_out_families: Their groups go to test whole.

    Raises:
        ValueError: Fractions that are no distribution, or a held-out family that is not there.
    """
    _check_fractions(fractions)
    groups = _TaskGroups()
    held_out_tasks: set[str] = set()
    missing = set(held_out_families)
    for rollout in rollouts:
        groups.add(rollout)
        if rollout.family in held_out_families:
            missing.discard(rollout.family)
            held_out_tasks.add(rollout.task_id)
    if missing:
        raise ValueError(f"held_out_families must be in the rollouts, missing {sorted(missing)!r}")
    group_of = groups.names()
    held_out = {group_of[task] for task in held_out_tasks}
    splits: dict[str, SplitName] = {
        group: "test" if group in held_out else _draw(group, fractions, seed)
        for group in set(group_of.values())
    }
    _log_counts(splits)
    return {task: splits[group] for task, group in group_of.items()}


def with_split(
    rollout: Rollout, splits: Mapping[str, SplitName], held_out_families: Collection[str] = ()
) -> Rollout:
    """The rollout with its task's split; where families are held out, info says `out_of_family`."""
    return replace(rollout, split=splits[rollout.task_id], info=_marked(rollout, held_out_families))


def request_text(rollout: Rollout) -> str:
    """The canonical text of the first user message; "" when there is none."""
    return next((_content(m) for m in rollout.messages if m["role"] == "user"), "")


def request_key(rollout: Rollout) -> str:
    """Equal for tasks with the same canonical request and the same tools (names, parameters)."""
    return content_hash([request_text(rollout), _tool_texts(_TOOLS.dump_json(rollout.tools))])


@lru_cache(maxsize=256)
def _tool_texts(tools_json: bytes) -> list[str]:
    # Nearly all rollouts of a log have one of few catalogues, which are long.
    tools = _TOOLS.validate_json(tools_json)
    return sorted(canonical_json([tool.name, tool.parameters]) for tool in tools)


def situation_key(rollout: Rollout) -> str:
    """Equal for tasks with the same canonical request in the same initial state.

    The state is `info["initial_state"]` where it is given, else the messages up to the request.
    """
    if "initial_state" in rollout.info:
        return content_hash([request_text(rollout), rollout.info["initial_state"]])
    opening = []
    for message in rollout.messages:
        opening.append([message["role"], _content(message)])
        if message["role"] == "user":
            break
    return content_hash(opening)


def _content(message: Message) -> str:
    content = message.get("content") or ""
    return _canonical_text(content if isinstance(content, str) else canonical_json(content))


@lru_cache(maxsize=256)
def _canonical_text(text: str) -> str:
    # Many rollouts open with one system message, which is long.
    return canonical_text(text)


def _check_fractions(fractions: Mapping[SplitName, float]) -> None:
    unknown = set(fractions) - set(SPLITS)
    total = sum(fractions.values())
    if unknown or min(fractions.values(), default=0) < 0 or abs(total - 1) > 1e-9:
        raise ValueError(
            f"fractions must be shares of {SPLITS!r} that sum to 1, got {dict(fractions)!r}"
        )


class _TaskGroups:
    """Which tasks are tied by an equal key, learnt from one rollout at a time."""

    def __init__(self) -> None:
        self._position: dict[str, int] = {}
        self._first_with: dict[tuple[str, str], int] = {}
        self._edges: set[tuple[int, int]] = set()

    def add(self, rollout: Rollout) -> None:
        task = self._position.setdefault(rollout.task_id, len(self._position))
        for key in (("request", request_key(rollout)), ("situation", situation_key(rollout))):
            other = self._first_with.setdefault(key, task)
            if other != task:
                self._edges.add((task, other))

    def names(self) -> dict[str, str]:
        """Name of its group by task id: the smallest task id that it is tied to."""
        size = len(self._position)
        rows, columns = zip(*self._edges, strict=True) if self._edges else ((), ())
        graph = coo_array(([1] * len(rows), (rows, columns)), shape=(size, size))
        labels = connected_components(graph, directed=False)[1] if size else []
        label_of = dict(zip(self._position, map(int, labels), strict=True))
        names: dict[int, str] = {}
        return {task: names.setdefault(label_of[task], task) for task in sorted(label_of)}


def _draw(group: str, fractions: Mapping[SplitName, float], seed: int) -> SplitName:
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    named = [split for split in SPLITS if fractions.get(split, 0) > 0]
    for split, end in zip(named, accumulate(fractions[split] for split in named), strict=True):
        if position < end:
            return split
    return named[-1]  # a position between the rounded sum and 1


def _marked(rollout: Rollout, held_out_families: Collection[str]) -> dict[str, object]:
    if not held_out_families:
        return rollout.info
    return {**rollout.info, "out_of_family": rollout.family in held_out_families}


def _log_counts(splits: Mapping[str, SplitName]) -> None:
    counts = Counter(splits.values())
    logger.info("split %d groups of tasks: %s", len(splits), dict(counts))
