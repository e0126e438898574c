"""Runs a program that ends when another process does: `tied.py OWNER PROGRAM [ARGUMENT ...]`.

PROGRAM is a script, or `-m` and a module. The tie is there before the program's imports, which
take seconds; hence nothing but the standard library here.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_POLL_S = 1.0


def identity(pid: int) -> str | None:
    """A process as `PID:START`, which no later one has; None when it has ended.

    START is empty where there is no /proc: a later process of the same number is then taken for it.
    """
    try:
        if not Path("/proc/self/stat").exists():
            os.kill(pid, 0)
            return f"{pid}:"
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except PermissionError:  # somebody else's, so it is there
        return f"{pid}:"
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name of the program stands in parentheses and may hold any character.
    state, *rest = text.rpartition(")")[2].split()
    return None if state in ("Z", "X") else f"{pid}:{rest[18]}"


def tie_to(owner: str) -> None:
    """End this process, as if killed, as soon as its parent or the process `owner` is gone.

    Args:
        owner: `identity` of the process.
    """
    if sys.platform == "linux":
        # At once, also while Python is held up. The thread is for an owner that is no parent, and
        # for other systems.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    pid = int(owner.partition(":")[0])

    def watch() -> None:
        while identity(pid) == owner:
            time.sleep(_POLL_S)
        os._exit(1)

    if identity(pid) != owner:  # it may have ended before there was a tie
        os._exit(1)
    threading.Thread(target=watch, name="tied", daemon=True).start()


def run(program: Sequence[str]) -> None:
    """Run a script or module in this process, as the interpreter would with these arguments."""
    is_module = program[0] == "-m"
    sys.argv = list(program[1:] if is_module else program)
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd() if is_module else str(Path(program[0]).resolve().parent)
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    tie_to(sys.argv[1])
    run(sys.argv[2:])
