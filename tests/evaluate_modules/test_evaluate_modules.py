"""The metrics as people load them who know Hugging Face's evaluate: by path, same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

evaluate = pytest.importorskip("evaluate")

from specact_rl.metrics import METRICS  # noqa: E402
from specact_rl.metrics.calibration import brier_skill_interval  # noqa: E402
from specact_rl.metrics.discrimination import auroc_interval  # noqa: E402
from specact_rl.metrics.frontier import gate_skill_interval  # noqa: E402
from specact_rl.metrics.null_bands import calibration_null_band  # noqa: E402
from specact_rl.metrics.selective import gate_errors  # noqa: E402
from specact_rl.programs import programs_root  # noqa: E402

MODULES = programs_root() / "evaluate_modules"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Load a module from the folder, with a cache of its own."""
    cache = tmp_path_factory.mktemp("evaluate_cache")

    def of(name: str):
        return evaluate.load(str(MODULES / name), cache_dir=str(cache))

    return of


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(7)
    p = rng.beta(2, 1, 400)
    return {
        "p": p,
        "cheap": rng.random(400) < p,
        "strong": rng.random(400) < 0.8,
        "tasks": np.repeat(np.arange(100), 4),
    }


def test_every_folder_is_a_module():
    assert {path.parent.name for path in MODULES.glob("*/*.py")} == {
        "accept_calibration",
        "selective_risk",
        "gate_skill",
    }


def test_accept_calibration_gives_the_numbers_of_the_library(load, rows):
    p, y, tasks = rows["p"], rows["cheap"], rows["tasks"]
    found = load("accept_calibration").compute(
        predictions=p, references=y, clusters=tasks, null_draws=200, seed=3
    )
    for name, metric in METRICS.items():
        assert found[name] == metric.compute(p, y).value, name
    of_tasks, of_nulls = np.random.default_rng(3).spawn(2)
    intervals = {
        "auroc": auroc_interval(p, y, tasks),
        "brier_skill": brier_skill_interval(p, y, tasks, rng=of_tasks),
    }
    for name, value in intervals.items():
        assert (found[f"{name}_low"], found[f"{name}_high"]) == (value.low, value.high)
    band = calibration_null_band(p, y, rng=of_nulls, num_draws=200)
    assert (found["ece_null_low"], found["ece_null_high"]) == (band.low, band.high)


def test_accept_calibration_says_none_where_one_class_is_missing(load):
    found = load("accept_calibration").compute(predictions=[0.5, 0.9], references=[True, True])
    assert found["auroc"] is None
    assert found["brier"] == pytest.approx((0.25 + 0.01) / 2)


def test_accept_calibration_in_batches_is_that_of_all_rows(load, rows):
    module, p, y = load("accept_calibration"), rows["p"], rows["cheap"]
    for part in (slice(0, 150), slice(150, None)):
        module.add_batch(predictions=p[part], references=y[part])
    assert module.compute() == load("accept_calibration").compute(predictions=p, references=y)


def test_log_odds_are_refused(load):
    with pytest.raises(ValueError, match="calibrator first"):
        load("accept_calibration").compute(predictions=[-1.5, 2.0], references=[False, True])


def test_an_unknown_label_is_refused_and_not_taken_for_wrong(load):
    for name in ("accept_calibration", "selective_risk"):
        with pytest.raises(ValueError, match="unknown label"):
            load(name).compute(predictions=[0.1, 0.2, 0.9], references=[False, None, True])


def test_selective_risk_of_a_gate(load, rows):
    p, y = rows["p"], rows["cheap"]
    found = load("selective_risk").compute(predictions=p, references=y, threshold=0.6)
    errors = gate_errors(p >= 0.6, y)
    assert found["selective_risk"] == errors.selective_risk.value
    assert found["accept_rate"] == errors.accept_rate.value
    assert found["aurc"] == METRICS["aurc"].compute(p, y).value
    nothing = load("selective_risk").compute(predictions=p, references=y, threshold=2.0)
    assert nothing["selective_risk"] is None
    assert nothing["accept_rate"] == 0.0


def test_gate_skill_of_four_steps(load):
    # Accepted: the first two. Accepting gains +1 on step 0, 0 on step 1; rejecting step 3 keeps a
    # gain of 1. Accuracy (1 + 1 + 0 + 1) / 4; random at rate 1/2: mean of .5 and .75.
    found = load("gate_skill").compute(
        predictions=[True, True, False, False],
        references=[True, True, False, False],
        strong_references=[False, True, False, True],
    )
    assert found["accuracy"] == 0.75
    assert found["random"] == 0.5 * 0.5 + 0.5 * 0.5
    assert found["skill"] == pytest.approx(0.25)
    assert (found["never"], found["always"]) == (0.5, 0.5)
    assert (found["oracle"], found["worst"]) == (0.75, 0.25)


def test_gate_skill_interval_is_that_of_the_library(load, rows):
    g, c, s, tasks = rows["p"] > 0.6, rows["cheap"], rows["strong"], rows["tasks"]
    found = load("gate_skill").compute(
        predictions=g, references=c, strong_references=s, clusters=tasks, seed=5
    )
    value = gate_skill_interval(g, c, s, tasks, rng=np.random.default_rng(5))
    assert (found["skill"], found["skill_low"], found["skill_high"]) == (
        value.value,
        value.low,
        value.high,
    )


def test_modules_import_nothing_but_what_is_installed():
    """The loader reads import lines and would fetch a relative or remote one."""
    for path in Path(MODULES).glob("*/*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("import ", "from ")):
                assert line.split()[1].split(".")[0] in {
                    "datasets",
                    "evaluate",
                    "numpy",
                    "specact_rl",
                }
