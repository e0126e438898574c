"""Studies of logs: `run_study` picks the kind that the log and the arguments allow."""

from specact_rl.pipeline.study.base import StudyPlan
from specact_rl.pipeline.study.choose import run_study

__all__ = ["StudyPlan", "run_study"]
