"""Claims over runs that are copies of the fixture with other seeds and other numbers."""

import copy
import json
import math
from pathlib import Path

import pytest
from scipy import stats

from specact_rl.cli import main
from specact_rl.errors import ConfigError
from specact_rl.eval.repeats import CLAIMS, mean_over_runs, repeated_claims, repeats_page
from specact_rl.metrics.values import MetricValue

FIXTURE = Path(__file__).parents[1] / "fixtures" / "report" / "results.json"


def run_of(seed, dpo):
    """A run in which DPO changes the share acceptable by `dpo`, with an interval of +- .01."""
    results = json.loads(FIXTURE.read_text(encoding="utf-8"))
    results["meta"] |= {"seed": seed}
    for row in results["replay"]["contrasts"]:
        if (row["better"], row["worse"]) == ("B-dpo", "B"):
            row["difference"] |= {"value": dpo, "low": dpo - 0.01, "high": dpo + 0.01}
    return results


def claim_of(found, name):
    return next(row for row in found if row.claim.name == name)


def test_claim_holds_by_its_sign_and_is_shown_by_its_interval():
    row = claim_of(
        repeated_claims([run_of(0, 0.02), run_of(1, 0.005), run_of(2, -0.03)]), "DPO beats SFT"
    )
    assert [m.value for m in row.known] == [0.02, 0.005, -0.03]
    assert (row.num_hold, row.num_shown) == (2, 1)


def test_mean_has_students_interval():
    row = claim_of(repeated_claims([run_of(0, 0.01), run_of(1, 0.03)]), "DPO beats SFT")
    # mean .02, sd .01 * sqrt(2), error .01, t of one degree of freedom
    assert row.mean.value == pytest.approx(0.02)
    assert row.mean.high - 0.02 == pytest.approx(0.01 * stats.t.ppf(0.975, 1))
    assert stats.t.ppf(0.975, 1) == pytest.approx(math.tan(0.475 * math.pi))


def test_a_mean_of_runs_that_agree_is_as_wide_as_their_own_intervals_make_it():
    runs = [MetricValue(value=0.02, low=-0.02, high=0.06, n=60) for _ in range(4)]
    mean = mean_over_runs(runs)
    # four errors of .04 / 1.96 each: half of one
    assert (mean.low, mean.high) == (pytest.approx(0.0), pytest.approx(0.04))
    bare = [MetricValue(value=0.02, n=60), *runs[1:]]
    assert mean_over_runs(bare).high == pytest.approx(0.02)


def test_claim_below_a_bound_holds_below_it_only():
    ece = next(claim for claim in CLAIMS if claim.name == "debiased ECE is at most 0.03")
    assert ece.holds(0.03)
    assert not ece.holds(0.0301)


def test_every_claim_reads_a_number_of_a_whole_run():
    missing = {
        row.claim.name for row in repeated_claims([run_of(0, 0.0), run_of(1, 0.0)]) if not row.known
    }
    assert missing == set()


def test_runs_that_lack_a_number_are_not_counted():
    bare = run_of(1, 0.0)
    bare["replay"] = {}
    row = claim_of(repeated_claims([run_of(0, 0.02), bare]), "DPO beats SFT")
    assert (len(row.known), row.num_hold, row.mean.value) == (1, 1, None)
    repeats_page([run_of(0, 0.02), bare])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 0}, "differ in their seed"),
        ({"preset": "qwen3"}, "one preset"),
        ({"code_version": "9"}, "one code_version"),
        ({"source_hash": "9"}, "one source_hash"),
        ({"bases": ["9"]}, "one bases"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(change, message):
    other = copy.deepcopy(run_of(1, 0.0))
    other["meta"] |= change
    with pytest.raises(ConfigError, match=message):
        repeated_claims([run_of(0, 0.0), other])


def test_command_prints_the_page(tmp_path, capsys):
    for seed in (0, 1):
        folder = tmp_path / str(seed) / "evaluation"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(run_of(seed, 0.02)))
    assert main(["repeats", str(tmp_path / "0"), str(tmp_path / "1")]) == 0
    page = capsys.readouterr().out
    assert "| DPO beats SFT | +2.0 [+1.0, +3.0] | +2.0 [+1.0, +3.0] |" in page
    assert "2 of 2 | 2 of 2 |" in page
    assert main(["repeats", str(tmp_path / "0"), str(tmp_path / "none")]) == 2
    assert "results.json" in capsys.readouterr().err
