"""The whole path by preset: tasks, rollouts, training, outcomes, gates, live episodes, report."""

from specact_rl.pipeline.run import run_preset

__all__ = ["run_preset"]
