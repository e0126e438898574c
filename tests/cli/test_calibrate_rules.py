"""`specact calibrate --rule`: every rule can be asked for; what does not go together is said."""

import json
from typing import get_args

import numpy as np
import pytest
from scipy import special

from specact_rl import cli
from specact_rl.cli.tables import LOSSES, RULES
from specact_rl.metrics.task_loss import TaskLoss
from specact_rl.policy.gates import Gate
from specact_rl.policy.thresholds import ThresholdRule


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    rng = np.random.default_rng(0)
    z = rng.normal(2.5, 2.0, size=1800)
    y = rng.random(1800) < special.expit(z)
    path = tmp_path_factory.mktemp("table") / "scores.csv"
    lines = [
        f"{i // 2},{score:.5f},{int(good)}"
        for i, (score, good) in enumerate(zip(z, y, strict=True))
    ]
    path.write_text("\n".join(["task,score,good", *lines]) + "\n", encoding="utf-8")
    return [
        *["calibrate", "--table", str(path), "--score", "score", "--label", "good"],
        *["--cluster", "task"],
    ]


def test_the_command_offers_the_rules_and_losses_that_there_are():
    assert set(RULES) == set(get_args(ThresholdRule))
    assert set(LOSSES) == set(get_args(TaskLoss))


ARGUMENTS = {
    "target_risk": ["--target-risk", "0.2", "--delta", "0.2"],
    "task_risk": ["--loss", "wrong_share"],
    "conformal_risk": ["--target-risk", "0.05"],
    "accept_rate": ["--accept-rate", "0.4"],
    "utility": ["--fallback-accuracy", "0.8"],
    "chow": ["--fallback-accuracy", "0.8", "--cost-weight", "0.1"],
    "cost": ["--fallback-accuracy", "0.8", "--budget", "0.75"],
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_chooses_the_gates_threshold(command, tmp_path, capsys, rule):
    out = tmp_path / "gate.json"
    assert cli.main([*command, "--rule", rule, *ARGUMENTS[rule], "--gate", str(out)]) == 0
    gate = Gate.from_json(json.loads(out.read_text(encoding="utf-8")))
    assert gate.rule == rule
    assert gate.threshold is not None
    for option, value in zip(ARGUMENTS[rule][::2], ARGUMENTS[rule][1::2], strict=True):
        name = option.removeprefix("--").replace("-", "_")
        if name in gate.rule_arguments:
            assert gate.rule_arguments[name] == float(value)
    page = capsys.readouterr().out
    assert gate.message in page
    assert ("Promised of new tasks" in page) == rule.endswith("_risk")


def test_the_page_says_what_could_be_promised_and_where_not(command, capsys):
    assert cli.main([*command, "--target-risk", "0.15"]) == 0
    page = capsys.readouterr().out
    assert "15 % wrong among the accepted is certified at" in page
    assert "no threshold certifies 1 % wrong among the accepted" in page
    assert "None of this carries over to live episodes" in page
    for name in ("AURC", "E-AURC", "AUGRC", "false accept rate", "false reject rate"):
        line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        assert " to " in line  # the interval


def test_a_stricter_target_accepts_less(command, tmp_path):
    thresholds = []
    for target in ("0.05", "0.1", "0.2"):
        out = tmp_path / f"{target}.json"
        assert cli.main([*command, "--target-risk", target, "--gate", str(out)]) == 0
        thresholds.append(json.loads(out.read_text(encoding="utf-8"))["threshold"])
    assert None not in thresholds
    assert thresholds == sorted(thresholds, reverse=True)


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--rule", "accept_rate"], "needs accept_rate"),
        (["--accept-rate", "0.3"], "accept_rate is for the rules ['accept_rate']"),
        (["--rule", "cost", "--budget", "1"], "needs fallback_accuracy"),
        (["--target-risk", "1"], "target_risk must be in (0, 1)"),
        (["--rule", "chow", "--fallback-accuracy", "80"], "must be in [0, 1]"),
        (["--rule", "conformal_risk", "--loss", "wrong_among_accepted"], "never falls"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(command, capsys, extra, complaint):
    assert cli.main([*command, *extra]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert complaint in shown.err
