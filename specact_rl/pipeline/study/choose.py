"""Which kind of study a log and its arguments allow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from specact_rl.errors import ConfigError
from specact_rl.eval.log_outcomes import LogAnswers
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.study.alone import AloneStudy
from specact_rl.pipeline.study.base import EVALUATED, Study, StudyPlan
from specact_rl.pipeline.study.pair import PairStudy
from specact_rl.pipeline.study.proposer import ProposerStudy
from specact_rl.progress import ProgressBar
from specact_rl.store import remove_temporaries

logger = logging.getLogger(__name__)


def run_study(
    plan: StudyPlan, out: Path, *, progress: ProgressBar, command: Sequence[str]
) -> dict[str, Any]:
    """Study a log into a folder; finished stages are skipped on a second run.

    Args:
        plan: What to study.
        out: Folder, made when it is not there.
        progress: Of the stages.
        command: What the user typed, for the report.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: No such log or model, a split that is too small, or a folder that holds
            something else.
        RolloutFormatError: The log is not of its format.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} must be a folder to write the study to, but is a file")
    if out.resolve().is_relative_to(plan.log.resolve()):
        raise ConfigError(
            f"{out} must lie outside {plan.log}, which is read as a log; choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    remove_temporaries(out)
    folders = Folders(root=out)
    if plan.proposer is not None:
        return ProposerStudy(plan, folders, progress, command).execute()
    if plan.cheap is not None and plan.strong is not None:
        return PairStudy(plan, folders, progress, command).execute()
    return _of_one_model(plan, folders, progress, command).execute()


def _of_one_model(
    plan: StudyPlan, folders: Folders, progress: ProgressBar, command: Sequence[str]
) -> Study:
    """Its second trials are the fallback of the first where it has any, else it stands alone."""
    begun = AloneStudy(plan, folders, progress, command)
    logger.info("%s: read as %s", plan.log, begun.imported["importer"])
    answers = LogAnswers.of(begun.rollouts)
    name = plan.cheap or plan.strong
    if name is None and len(answers.by_agent) > 1:
        raise ConfigError(
            f"{plan.log} has {len(answers.by_agent)} models: name two with --cheap and --strong. "
            f"They are {list(answers.by_agent)!r}"
        )
    agent = answers.find(name or next(iter(answers.by_agent)))
    twice = {
        split: sum(
            len(rollouts) > 1 and rollouts[0].split == split
            for rollouts in answers.by_agent[agent].values()
        )
        for split in EVALUATED
    }
    if all(twice.values()):
        logger.info("%s: second trials stand in for a strong model", agent)
        retry = replace(plan, cheap=f"{agent}#1", strong=f"{agent}#2")
        return PairStudy(retry, folders, progress, command).goes_on(begun)
    return AloneStudy(replace(plan, cheap=agent), folders, progress, command).goes_on(begun)
