"""The device that models run on: its memory, and how fast it multiplies."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

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
