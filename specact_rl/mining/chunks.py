"""The tables of a split, a few whole tasks at a time, so that a log may be larger than memory.

Rollouts of one task must be seen together. Import and collection write them that way (a row group
of the rollouts table holds whole tasks), so a chunk is a row group: no index of the rows and no
sorting on the side, and processes that mine different chunks share nothing. Of a table in another
order, the row groups that share a task are one chunk: right, but as large as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from specact_rl.errors import ConfigError
from specact_rl.mining.build_rollouts import rollouts_file, task_splits
from specact_rl.mining.pairs import group_by_task
from specact_rl.mining.task_tables import TaskTables
from specact_rl.store import iter_columns, iter_table, read_manifest
from specact_rl.types import Proposal, Rollout, SplitName

PROPOSALS_FILE = "proposals.parquet"
SCORES_FILE = "scores.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Row groups that hold all rows of some tasks."""

    rollouts: tuple[int, ...]
    """Row groups of the rollouts table."""
    proposals: tuple[tuple[int, ...], ...]
    """Row groups of each proposals table that hold some of these tasks."""
    contiguous: bool
    """Whether the rollouts of each task stand one after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Rollouts and proposals of one split, on disk. Goes to other processes as it is."""

    rollouts: Path
    proposals: tuple[Path, ...]
    split: SplitName
    chunks: tuple[Chunk, ...]
    num_rollouts: int
    num_proposals: int
    num_other_proposals: int
    """Made on tasks of other splits."""

    def read(self, chunk: Chunk) -> Iterator[TaskTables]:
        """The tasks of one chunk, one after another where its rows allow.

        Raises:
            ConfigError: A proposal_id that is there twice.
            ValueError: A proposal at a step of none of the rollouts.
        """
        proposals = self._proposals(chunk)
        where = {"split": [self.split]}
        rollouts = iter_table(self.rollouts, Rollout, row_groups=chunk.rollouts, where=where)
        # Task by task is faster than all at once, too: what was just parsed is still in the cache.
        for _, rows in groupby(rollouts, lambda r: chunk.contiguous and r.task_id):
            together = list(rows)
            tasks = {rollout.task_id for rollout in together}
            yield from group_by_task(together, [p for t in tasks for p in proposals.get(t, ())])

    def _proposals(self, chunk: Chunk) -> dict[str, list[Proposal]]:
        """Those on the tasks of a chunk, by task."""
        found: defaultdict[str, list[Proposal]] = defaultdict(list)
        ids: set[str] = set()
        if not any(chunk.proposals):
            return found
        tasks: set[str] = set()
        for columns in iter_columns(self.rollouts, Rollout, ["task_id"], chunk.rollouts):
            tasks.update(columns["task_id"])
        for path, row_groups in zip(self.proposals, chunk.proposals, strict=True):
            for proposal in iter_table(
                path, Proposal, row_groups=row_groups, where={"task_id": tasks}
            ):
                if proposal.proposal_id in ids:
                    raise ConfigError(
                        f"{path}: proposal_id {proposal.proposal_id!r} must be unique, but was "
                        "there before; name each folder once"
                    )
                ids.add(proposal.proposal_id)
                found[proposal.task_id].append(proposal)
        return found

    def tasks(self) -> Iterator[TaskTables]:
        """All tasks, one chunk of them in memory."""
        for chunk in self.chunks:
            yield from self.read(chunk)


def open_tables(rollouts_dir: Path, proposals_dirs: Sequence[Path], split: SplitName) -> Tables:
    """Find the chunks of a split's tables; reads the ids only.

    Raises:
        ConfigError: A folder that is not finished or lacks its table, a rollout without a split,
            or proposals on tasks that are not in the rollouts.
    """
    path = rollouts_file(rollouts_dir)
    split_of: dict[str, SplitName] = {}
    groups_of: defaultdict[str, list[int]] = defaultdict(list)
    num_rollouts = 0
    scattered: set[int] = set()
    """Row groups whose tasks are not contiguous."""
    for group, rows in enumerate(task_splits(path)):
        split_of |= dict(rows)
        if len(list(groupby(task for task, _ in rows))) > len(dict(rows)):
            scattered.add(group)
        num_rollouts += sum(found == split for _, found in rows)
        for task, found in dict(rows).items():
            if found == split:
                groups_of[task].append(group)
    chunk_of_group = _tied(list(groups_of.values()))
    number_of = {first: i for i, first in enumerate(sorted(set(chunk_of_group.values())))}
    chunk_of_task = {
        task: number_of[chunk_of_group[groups[0]]] for task, groups in groups_of.items()
    }
    rollout_groups: list[list[int]] = [[] for _ in number_of]
    for group, first in sorted(chunk_of_group.items()):
        rollout_groups[number_of[first]].append(group)

    files = tuple(proposals_file(folder) for folder in proposals_dirs)
    proposal_groups: list[list[list[int]]] = [[[] for _ in files] for _ in number_of]
    num_proposals = num_others = 0
    for i, file in enumerate(files):
        for group, columns in enumerate(iter_columns(file, Proposal, ["proposal_id", "task_id"])):
            for proposal, task in zip(columns["proposal_id"], columns["task_id"], strict=True):
                if task not in split_of:
                    raise ConfigError(
                        f"proposal {proposal!r} must be made on a task of {rollouts_dir}, task "
                        f"{task!r} is not in it"
                    )
            wanted = [task for task in columns["task_id"] if task in chunk_of_task]
            num_proposals += len(wanted)
            num_others += len(columns["task_id"]) - len(wanted)
            for number in {chunk_of_task[task] for task in wanted}:
                proposal_groups[number][i].append(group)
    return Tables(
        rollouts=path,
        proposals=files,
        split=split,
        chunks=tuple(
            Chunk(
                rollouts=tuple(ours),
                proposals=tuple(map(tuple, theirs)),
                contiguous=len(ours) == 1 and ours[0] not in scattered,
            )
            for ours, theirs in zip(rollout_groups, proposal_groups, strict=True)
        ),
        num_rollouts=num_rollouts,
        num_proposals=num_proposals,
        num_other_proposals=num_others,
    )


def _tied(sets: Sequence[Sequence[int]]) -> dict[int, int]:
    """For each number in any of the sets the smallest one that it is tied to by common members."""
    parent: dict[int, int] = {}

    def root(number: int) -> int:
        while parent.setdefault(number, number) != number:
            parent[number] = number = parent[parent[number]]
        return number

    for members in sets:
        for member in members:
            first, second = sorted((root(members[0]), root(member)))
            parent[second] = first
    return {number: root(number) for number in parent}


def proposals_file(folder: Path) -> Path:
    """The proposals table of a finished folder.

    Raises:
        ConfigError: The folder is not finished, or has none.
    """
    read_manifest(folder)
    path = folder / PROPOSALS_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} must be a proposals folder, but has no {PROPOSALS_FILE}")
    return path
