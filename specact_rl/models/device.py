"""The device that models run on: its memory, how fast it multiplies, and what it spends time on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

ASSUMED_MEMORY = 80_000_000_000
ASSUMED_RATE = 792e12
"""Of one H100: a product of two 8,192 x 8,192 bf16 matrices (benchmarks/results/gpu-h100.json)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Memory in bytes, FLOPs a second of a matrix product, and where either number is from."""

    name: str
    memory: int
    memory_source: str
    """"given", "detected" or "assumed"."""
    rate: float
    rate_source: str
    """"given", "measured" or "assumed"."""


def find_device(memory: int | None, rate: float | None, *, on_cpu: bool) -> Device:
    """The device, as far as it is given, here, or assumed: one GPU of 80 GB.

    Args:
        memory: Bytes, if given.
        rate: FLOPs a second, if given.
        on_cpu: Models run on the CPU, GPU or not.
    """
    if on_cpu:
        name, here = "CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    elif torch.cuda.is_available():
        name, here = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    else:
        name, here = "one H100 80GB", None
    if memory is not None:
        found, source = memory, "given"
    elif here is not None:
        found, source = here, "detected"
    else:
        found, source = ASSUMED_MEMORY, "assumed"
    if rate is not None:
        rate_source = "given"
    elif here is not None:
        rate, rate_source = product_rate(on_cpu=on_cpu), "measured"
    else:
        rate, rate_source = ASSUMED_RATE, "assumed"
    return Device(name=name, memory=found, memory_source=source, rate=rate, rate_source=rate_source)


def product_rate(*, on_cpu: bool) -> float:
    """FLOPs a second of a square matrix product: bf16 on a GPU, float32 on a CPU."""
    size, where, dtype = (
        (1_024, "cpu", torch.float32) if on_cpu else (8_192, "cuda", torch.bfloat16)
    )
    a, b = (torch.randn(size, size, device=where, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        _ = a @ b
        if not on_cpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2.0 * size**3 / statistics.median(seconds[2:])


def free_device_memory() -> int | None:
    """Bytes that a new process may take of the GPU; None where there is none."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None


_OPERATORS = {
    "products of matrices": ("mm", "addmm", "bmm", "linear", "matmul"),
    "attention": ("scaled_dot_product",),
    "optimizer": ("Optimizer", "fused_adamw", "foreach"),
    "putting together and apart": ("cat", "copy_", "clone", "index", "slice", "split"),
}
_OTHERS = "rest: norms, rotary positions, SiLU, losses, Python"
_BETWEEN = "between operators"


def operator_shares(run: Callable[[], object], *, between: bool = False) -> dict[str, float]:
    """Share of the CPU time of all of a run's operators by kind of operator.

    Args:
        run: What is looked at.
        between: Count the time between operators, too, most of it Python's. Not of a training: its
            backward pass has a thread of its own, beside which the first one waits.
    """
    seconds = dict.fromkeys([*_OPERATORS, _OTHERS, *([_BETWEEN] if between else [])], 0.0)
    with torch.profiler.profile() as prof:
        if between:
            with torch.profiler.record_function(_BETWEEN):
                run()
        else:
            run()
    for event in prof.key_averages():
        name = event.key.removeprefix("aten::").lstrip("_")
        kinds = (kind for kind, starts in _OPERATORS.items() if name.startswith(starts))
        kind = name if name in seconds else next(kinds, _OTHERS)
        seconds[kind] += event.self_cpu_time_total
    total = sum(seconds.values())
    return {kind: value / total for kind, value in seconds.items()}


def machine_facts() -> dict[str, Any]:
    """What a benchmark's results say of where they are from, as JSON values."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "threads": torch.get_num_threads(),
        "load_at_start": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
