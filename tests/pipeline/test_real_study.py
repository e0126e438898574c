"""A study of a public log, where it lies beside the checkout or in SPECACT_REAL_LOGS.

The baseline was computed independently: boosted trees on some sixty hand features, AUROC .875 over
all answers and .769 over those that can be read, of models and questions that it had not seen.
"""

import os
from pathlib import Path

import pytest

from specact_rl.cli import main
from specact_rl.store import read_json

ROOT = Path(os.environ.get("SPECACT_REAL_LOGS", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    log = ROOT / "bfcl_2024_08"
    if not log.is_dir():
        pytest.skip(f"no bfcl_2024_08 in {ROOT}: set SPECACT_REAL_LOGS to a folder of public logs")
    out = tmp_path_factory.mktemp("real") / "out"
    pair = ["--cheap", "Meta-Llama-3-8B", "--strong", "Meta-Llama-3-70B"]
    assert main(["study", str(log), *pair, "--out", str(out)]) == 0
    return read_json(out / "evaluation" / "results.json")


def test_who_is_right_where_is_as_computed_independently(study):
    assert study["meta"]["study"]["agreement"] == {
        "both": 761,
        "only_cheap": 58,
        "only_strong": 407,
        "neither": 164,
        "unlabelled": 0,
    }


def test_verifiers_on_models_and_questions_that_they_have_not_seen_beat_the_baseline(study):
    row = study["unseen"][0]
    assert row["name"] == "trained"
    assert row["auroc"]["value"] > 0.875
    assert row["auroc_readable"]["value"] > 0.769


@pytest.mark.parametrize("name", ["D-half", "D-new-half"])
def test_a_frozen_gate_beats_the_random_one_at_its_own_rate(study, name):
    row = next(system for system in study["replay"]["systems"] if system["name"] == name)
    assert row["skill"]["low"] > 0
