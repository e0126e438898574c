"""Child processes that do not outlive their parent, so that a killed run can be started again."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

TIED_TO_PARENT = "SPECACT_TIED_TO_PARENT"
"""Environment variable: a recipe that finds it ends with the process that launched it."""
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone; Linux only, elsewhere nothing.

    Without it a recipe would train on, and write to the folder that the next run works in, after
    the run that started it was killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_parent_if_tied() -> None:
    """`die_with_parent` where the launcher asked for it."""
    if os.environ.get(TIED_TO_PARENT):
        die_with_parent()
