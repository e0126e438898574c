"""Chunks of tasks, worked on in this process or on Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from specact_rl.cluster import ENGINES, TOLD, Engine, pack, ray_cluster, unpack
from specact_rl.errors import ConfigError
from specact_rl.mining.chunks import Chunk, Tables
from specact_rl.mining.data_sets import Part
from specact_rl.mining.task_tables import TaskTables

TaskWork = Callable[[TaskTables], Part]
"""Pure, and picklable for `ray`."""


def work_through(tables: Tables, work: TaskWork, engine: Engine = "local") -> Iterator[Part]:
    """The parts of all tasks; in no particular order where several are worked on at a time.

    Raises:
        ConfigError: An unknown engine, or Ray is not installed.
        SpecActError, ValueError: What the work raises, wherever it ran.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine must be one of {list(ENGINES)!r}, got {engine!r}")
    on_chunk = _ChunkWork(tables=tables, work=work)
    if engine == "ray":
        yield from _on_ray(on_chunk)
    else:
        for chunk in tables.chunks:
            yield from on_chunk(chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChunkWork:
    """Reads the tasks of a chunk and works on them; what one worker is sent."""

    tables: Tables
    work: TaskWork

    def __call__(self, chunk: Chunk) -> Iterator[Part]:
        return map(self.work, self.tables.read(chunk))


@dataclass(frozen=True, slots=True, kw_only=True)
class _RayWork:
    """A row of Ray Data with the number of a chunk to rows with a part each, or an error.

    Where a worker dies, Ray runs its chunk again.
    """

    on_chunk: _ChunkWork

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, bytes]]:
        try:
            for part in self.on_chunk(self.on_chunk.tables.chunks[int(row["id"])]):
                yield {"part": pack(part)}
        except TOLD as error:
            yield {"part": pack(error)}


def _on_ray(on_chunk: _ChunkWork) -> Iterator[Part]:
    with ray_cluster(with_data=True) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        num_chunks = len(on_chunk.tables.chunks)
        numbers = ray.data.range(num_chunks, override_num_blocks=max(1, num_chunks))
        for row in numbers.flat_map(_RayWork(on_chunk=on_chunk)).iter_rows():
            yield unpack(row["part"])
