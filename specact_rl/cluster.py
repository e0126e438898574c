"""Where work is done: in this process, or by the workers of a Ray cluster.

What goes to a worker, and what its errors become, is the same for all who have some.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

from specact_rl.errors import ConfigError, SpecActError

Engine = Literal["local", "ray"]
"""local: this process, one piece of work after another. ray: as many pieces at a time as the
cluster has workers for; the rows are the same."""
ENGINES: tuple[Engine, ...] = get_args(Engine)

TOLD = (SpecActError, ValueError)
"""Errors of a worker that are raised here as they are; others are faults of the code, which Ray
shows with the worker's traceback."""

_OBJECT_STORE_BYTES = 512 * 2**20
"""Of a cluster of our own. Rows of a few chunks pass through it; Ray would take a third of the
machine's memory."""


@contextmanager
def ray_cluster(*, with_data: bool = False) -> Iterator[Any]:
    """Ray, connected to a cluster, which is left again at the end.

    That is the one this process is connected to, else the one at `RAY_ADDRESS`, else one of this
    machine's own, which goes at the end.

    Args:
        with_data: `ray.data` is needed, which takes seconds more to import.

    Raises:
        ConfigError: Ray is not installed, no cluster answers at the address, or none can be
            started here.
    """
    ray = _import_ray(with_data)
    ours = not ray.is_initialized()
    if ours:
        _connect(ray)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(**options)
    except Exception as error:  # that is what Ray raises where it takes too long to start
        raise ConfigError(
            f"engine 'ray' must have a cluster, but Ray could not start one here ({error}); free "
            "the machine of other work, or use engine 'local'"
            if address is None
            else f"RAY_ADDRESS must name a running Ray cluster, got {address!r} ({error}); start "
            "it, or unset the variable to use this machine alone"
        ) from error


def pack(found: object) -> bytes:
    """What a worker made, or one of the errors `TOLD`, as what it answers.

    Pickled by us: Ray Data would take rows apart into columns, and Ray would wrap an error so that
    its type and message are lost. The death of a worker is no error here.
    """
    return pickle.dumps(found)


def unpack(answer: bytes) -> Any:
    """What a worker made.

    Raises:
        SpecActError, ValueError: What it raised.
    """
    found = pickle.loads(answer)
    if isinstance(found, Exception):
        raise found
    return found


def _import_ray(with_data: bool) -> Any:
    # A cluster that this process starts for itself must not report its use to anybody, and has
    # workers of this process's priority: Ray's own is the last of all (nice 15).
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        # Imported here: few have it, and it takes seconds.
        import ray

        if with_data:
            import ray.data
    except ImportError as error:
        raise ConfigError(
            f"engine 'ray' must have Ray, which cannot be imported ({error}); "
            "pip install 'specact_rl[ray]', or use engine 'local'"
        ) from error
    return ray
