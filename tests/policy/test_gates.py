import json

import numpy as np
import pytest

from specact_rl.errors import ConfigError
from specact_rl.metrics.frontier import agreement_rates, gated_accuracy, oracle_gate, worst_gate
from specact_rl.policy.calibrators import CALIBRATORS, PlattCalibrator
from specact_rl.policy.gates import GATES, Gate, decide, reference_gate
from specact_rl.policy.thresholds import choose_by_accept_rate
from tests import gates


def make_gate(threshold=0.6, **fields):
    choice = {
        "rule": "accept_rate",
        "arguments": {"accept_rate": 0.5},
        "num_rows": 100,
        "num_accepted": 50,
        "num_errors": 5,
        "message": "accepts 50 of 100 rows",
    }
    ids = {"verifier_id": "linear@1", "proposer_id": "cheap@2"}
    values = ids | {"num_fit_rows": 80, "seed": 3} | fields
    return gates.make_gate(threshold, choice=choice, **values)


def test_decide_accepts_at_the_threshold_and_never_an_unscored_row():
    p = np.array([0.59, 0.6, 1.0, np.nan])
    assert decide(p, 0.6).tolist() == [False, True, True, False]
    assert decide(p, 0.0).tolist() == [True, True, True, False]
    assert decide(p, None).tolist() == [False] * 4


def test_live_decisions_are_those_of_the_replay():
    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    y = rng.random(400) < 0.5 + 0.3 * np.sign(z)
    for kind in CALIBRATORS.values():
        calibrator = kind.fit(z, y)
        choice = choose_by_accept_rate(calibrator.predict(z), y, accept_rate=0.4)
        gate = make_gate(choice.threshold, calibrator=calibrator)
        scores = [None, *z.tolist()]
        replay = gate.decide(gate.p_accept(scores))
        live = [gate.decide_one(score).accept for score in scores]
        assert live == replay.tolist()
        assert replay.sum() == choice.num_accepted


def test_decision_gives_its_probability_and_reason():
    gate = make_gate(threshold=0.6)
    accepted, rejected, unscored = (gate.decide_one(z) for z in (1.0, 0.0, None))
    assert (accepted.accept, accepted.reason) == (True, "accepted")
    assert accepted.p_accept == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert (rejected.accept, rejected.p_accept, rejected.reason) == (False, 0.5, "below_threshold")
    assert (unscored.accept, unscored.p_accept, unscored.reason) == (False, None, "unparsable")


@pytest.mark.parametrize("threshold", [0.1 + 0.2, 0.0, None])
def test_gate_comes_back_from_json(threshold):
    gate = make_gate(threshold)
    again = Gate.from_json(json.loads(json.dumps(gate.to_json(), allow_nan=False)))
    assert again == gate


def test_gate_id_is_that_of_the_contents():
    assert make_gate().gate_id == make_gate().gate_id
    changed = [
        make_gate(threshold=0.7),
        make_gate(verifier_id="other"),
        make_gate(calibration_hash="other"),
        make_gate(calibrator=PlattCalibrator(slope=2.0, intercept=0.0)),
        make_gate(seed=4),
    ]
    assert len({make_gate().gate_id, *(gate.gate_id for gate in changed)}) == 6


def test_an_edited_gate_is_refused():
    data = make_gate().to_json()
    with pytest.raises(ConfigError, match="edited"):
        Gate.from_json({**data, "threshold": 0.1})
    with pytest.raises(ConfigError, match=r"unknown: \['extra'\]"):
        Gate.from_json({**data, "extra": 1})
    with pytest.raises(ConfigError, match="format must be 1"):
        Gate.from_json({**data, "format": 2})


def test_a_gate_refuses_other_models_and_names_them():
    gate = make_gate()
    gate.check_matches(verifier_id="linear@1", proposer_id="cheap@2", calibration_hash="abc")
    gate.check_matches()
    with pytest.raises(ConfigError, match="proposer_id: the gate has 'cheap@2', this run has 'x'"):
        gate.check_matches(verifier_id="linear@1", proposer_id="x")


CHEAP = np.array([1, 1, 0, 0, 1, 0, 1, 1, 0, 0])
STRONG = np.array([0, 1, 1, 1, 1, 0, 0, 1, 1, 0])


def accept(name, rate, seed=0):
    rng = np.random.default_rng(seed)
    return reference_gate(name, CHEAP, STRONG, accept_rate=rate, rng=rng)


@pytest.mark.parametrize("num_accepted", range(11))
def test_reference_gates_reach_their_envelopes(num_accepted):
    rates, rate = agreement_rates(CHEAP, STRONG), num_accepted / 10
    for name, envelope in (("oracle", oracle_gate), ("worst", worst_gate)):
        accepted = accept(name, rate)
        assert accepted.sum() == num_accepted
        assert gated_accuracy(accepted, CHEAP, STRONG) == pytest.approx(envelope(rates, rate))


def test_always_and_never_ignore_the_rate():
    assert accept("always", 0.3).all()
    assert not accept("never", 0.3).any()


def test_random_gate_accepts_exactly_its_share_of_rows_drawn_alike():
    draws = np.array([accept("random", 0.3, seed) for seed in range(2000)])
    assert set(draws.sum(axis=1)) == {3}
    assert draws.mean(axis=0) == pytest.approx([0.3] * 10, abs=0.05)


@pytest.mark.parametrize("name", GATES)
def test_reference_gates_repeat_with_their_seed(name):
    assert accept(name, 0.5).tolist() == accept(name, 0.5).tolist()


def test_an_unknown_reference_gate_names_the_known_ones():
    with pytest.raises(ConfigError, match="always"):
        accept("perfect", 0.5)
