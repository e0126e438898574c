"""Runs the recipe that its arguments name with its weights in shards, on a CPU.

accelerate 1.15 shards only where it sees several GPUs, and trains whole copies on a CPU without a
word. torch's FSDP2 and gloo can do it, so this says that there are GPUs to the one place that asks.
"""

import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

make = PartialState.__init__


def init(state, *args, **kwargs):
    make(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = init
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
