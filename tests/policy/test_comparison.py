import numpy as np
import pytest
from scipy import special

from specact_rl.errors import ConfigError
from specact_rl.policy import comparison, fitting
from specact_rl.policy.calibrators import CALIBRATORS, PlattCalibrator
from specact_rl.policy.comparison import CHOSEN, RAW, nested_comparison
from specact_rl.policy.fitting import (
    automatic_choice,
    cross_validated_log_loss,
    fit_gate,
    fitting_half,
)


def rows(seed=0, n=900, tasks=90):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, n)
    return z, rng.random(n) < special.expit(0.5 * z + 1), rng.integers(tasks, size=n)


def accept_half(p, _rows):
    return float(np.median(p))


def test_no_row_is_shared_by_fit_threshold_and_test(monkeypatch):
    z, y, tasks = rows()
    row_of = {score: i for i, score in enumerate(z)}
    fitted, folds = [], []

    class Spy(PlattCalibrator):
        @classmethod
        def fit(cls, log_odds, acceptable):
            fitted.append({row_of[s] for s in log_odds})
            return super().fit(log_odds, acceptable)

    monkeypatch.setattr(comparison, "CALIBRATORS", {"spy": Spy})
    monkeypatch.setattr(comparison, "fit_calibrator", lambda z, y, *_: PlattCalibrator.fit(z, y))
    selected = []

    def choose(p, selects):
        selected.append(set(selects.tolist()))
        return 0.5

    found = nested_comparison(z, y, tasks, choose, rng=np.random.default_rng(0))
    assert len(fitted) == 5
    by_tasks = [{tasks[i] for i in part} for part in fitted]
    chosen_by_tasks = [{tasks[i] for i in part} for part in selected[::3]]
    for fit, select in zip(by_tasks, chosen_by_tasks, strict=True):
        assert not fit & select
        folds.append(set(tasks.tolist()) - fit - select)
    # The tasks of no half are a fold: together they are all tasks, each once.
    assert sorted(task for fold in folds for task in fold) == sorted(set(tasks.tolist()))
    # And each row was predicted by the fit of the fold that holds its task.
    for fold, part in zip(folds, fitted, strict=True):
        here = np.isin(tasks, list(fold))
        again = PlattCalibrator.fit(*(a[sorted(part)] for a in (z, y))).predict(z[here])
        assert found["spy"].p_accept[here] == pytest.approx(again, abs=1e-6)


def test_every_calibrator_and_the_raw_score_is_compared_on_all_rows():
    z, y, tasks = rows()
    found = nested_comparison(z, y, tasks, accept_half, rng=np.random.default_rng(0))
    assert list(found) == [RAW, CHOSEN, *CALIBRATORS]
    assert found[RAW].p_accept == pytest.approx(special.expit(z))
    for held_out in found.values():
        assert np.isfinite(held_out.p_accept).all()
        # Half of each other part: not exactly half of the rows, and fewer where many are alike.
        assert 0.4 < held_out.accepted.mean() < 0.7


def test_a_calibrated_score_beats_a_raw_one_on_held_out_rows():
    z, y, tasks = rows()
    found = nested_comparison(z, y, tasks, accept_half, rng=np.random.default_rng(0))
    loss = {name: np.mean((h.p_accept - y) ** 2) for name, h in found.items()}
    assert loss["platt"] < loss["prior_shift"] < 0.25
    assert loss["platt"] < loss[RAW]


def test_too_few_rows_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match="too few to compare"):
        nested_comparison(
            np.arange(3.0), np.arange(3) == 2, np.arange(3), accept_half,
            rng=np.random.default_rng(0),
        )  # fmt: skip


def test_isotonic_takes_part_in_the_choice_from_500_rows_on():
    assert automatic_choice(499) == ["temperature", "platt"]
    assert automatic_choice(500) == ["temperature", "platt", "isotonic"]
    z, y, tasks = rows(n=300)
    rng = np.random.default_rng(0)
    assert list(cross_validated_log_loss(z, y, tasks, rng)) == ["temperature", "platt"]
    named = cross_validated_log_loss(z, y, tasks, rng, ["beta", "isotonic"])
    assert list(named) == ["beta", "isotonic"]


def test_a_gate_is_fitted_on_the_half_that_is_told(monkeypatch):
    z, y, tasks = rows()
    seen = {}

    def spy(log_odds, labels, codes, rng):
        seen["rows"] = np.isin(z, log_odds)
        return PlattCalibrator.fit(log_odds, labels)

    monkeypatch.setattr(fitting, "fit_calibrator", spy)
    gate = fit_gate(
        z, y, ~y, tasks, verifier_id="v", proposer_id="p", calibration_hash="h", seed=11
    )
    assert np.array_equal(seen["rows"], fitting_half(tasks, np.random.default_rng(gate.seed)))
