"""Where chunks of tasks are worked on: in this process, or by the workers of a Ray cluster."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from specact_rl.errors import ConfigError, SpecActError
from specact_rl.mining.chunks import Chunk, Tables
from specact_rl.mining.data_sets import Part
from specact_rl.mining.task_tables import TaskTables

Engine = Literal["local", "ray"]
"""local: one process, one chunk after another. ray: Ray Data, as many chunks at a time as the
cluster has CPUs; the rows are the same."""
ENGINES: tuple[Engine, ...] = get_args(Engine)

_OBJECT_STORE_BYTES = 512 * 2**20
"""Of a cluster of our own. Parts of a few chunks pass through it; Ray would take a third of the
machine's memory."""

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

    Pickled by us: Ray would take parts apart into columns, and would wrap an error so that its
    type and message are lost. The death of a worker is no error here: Ray runs its chunk again.
    """

    on_chunk: _ChunkWork

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, bytes]]:
        try:
            for part in self.on_chunk(self.on_chunk.tables.chunks[int(row["id"])]):
                yield {"part": pickle.dumps(part)}
        except (SpecActError, ValueError) as error:
            yield {"part": pickle.dumps(error)}


def _on_ray(on_chunk: _ChunkWork) -> Iterator[Part]:
    ray = _import_ray()
    ours = not ray.is_initialized()
    if ours and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level="warning")
    elif ours:
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
            object_store_memory=_OBJECT_STORE_BYTES,
        )
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        num_chunks = len(on_chunk.tables.chunks)
        numbers = ray.data.range(num_chunks, override_num_blocks=max(1, num_chunks))
        for row in numbers.flat_map(_RayWork(on_chunk=on_chunk)).iter_rows():
            part = pickle.loads(row["part"])
            if isinstance(part, Exception):
                raise part
            yield part
    finally:
        if ours:
            ray.shutdown()


def _import_ray() -> Any:
    # A cluster that this process starts for itself must not report its use to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # Imported here: few have it, and it takes seconds.
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"engine 'ray' must have Ray Data, which cannot be imported ({error}); "
            "pip install 'specact_rl[ray]', or use engine 'local'"
        ) from error
    return ray
