"""The mistakes a gate was surest of, in order."""

from dataclasses import replace

import numpy as np
import pytest

from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.mistakes import MAX_TEXT, NUM_EACH, headline_system, mistake_rows
from specact_rl.eval.replay import SystemRun
from specact_rl.policy.systems import SYSTEMS

NAN = float("nan")


def make_run(system, accepted, offered, p_accept):
    n = len(accepted)
    zeros = np.zeros(n)
    return SystemRun(
        system=system,
        accepted=np.array(accepted, dtype=bool),
        called=~np.array(accepted, dtype=bool),
        pick=np.zeros(n, dtype=np.int64),
        p_accept=np.array(p_accept, dtype=float),
        offered=np.array(offered, dtype=float),
        parsed=np.ones(n, dtype=bool),
        acceptable=zeros,
        same_state=zeros,
        levels={},
        flops=zeros,
        seconds=zeros,
        price=zeros,
        num_distinct=zeros,
    )


@pytest.fixture
def found(make):
    """Six steps, two of them mistakes of either kind."""

    def rows(accepted, offered, p_accept, request="Tidy up.", name="D"):
        turns = [(make.say("done"), "next", make.say("right"))] * len(accepted)
        table = StepTable.of_references([make.rollout(turns, request=request)])
        columns = {
            role: ProposalColumns.of(
                table,
                [make.proposal(s, make.say(f"{role} {s.index}"), None, model=role)
                 for s in table.steps],
            )
            for role in ("cheap", "strong")
        }  # fmt: skip
        run = make_run(SYSTEMS[name], accepted, offered, p_accept)
        return mistake_rows({name: run}, table, columns)

    return rows


def test_surest_come_first_and_only_mistakes_come(found):
    rows = found(
        [True, True, True, False, False, False],
        [0, 1, 0, 1, 1, 0],
        [0.7, 0.99, 0.9, 0.3, 0.1, 0.0],
    )
    assert [(row["kind"], row["p_accept"]) for row in rows] == [
        ("accepted_wrong", 0.9),
        ("accepted_wrong", 0.7),
        ("rejected_right", 0.1),
        ("rejected_right", 0.3),
    ]
    assert [row["proposal"] for row in rows] == ["cheap 2", "cheap 0", "cheap 4", "cheap 3"]
    assert rows[0]["fallback"] == "strong 2"
    assert rows[0]["reference"] == "right"
    assert rows[0]["request"] == "Tidy up."
    assert rows[0]["action_type"] == "final_answer"
    assert rows[0]["fallback_acceptable"] is None


def test_unknown_labels_and_scores_are_no_mistakes(found):
    assert found([True, False, False], [NAN, NAN, 1], [0.9, 0.1, NAN]) == []


def test_long_texts_and_long_lists_are_cut(found):
    n = NUM_EACH + 20
    rows = found([True] * n, [0] * n, np.linspace(0, 1, n), request="word " * 500)
    assert len(rows) == NUM_EACH
    assert rows[0]["p_accept"] == 1.0
    assert len(rows[0]["request"]) == MAX_TEXT
    assert rows[0]["request"].endswith("…")


def test_headline_is_d_else_the_first_gate(found):
    names = {name: make_run(replace(SYSTEMS[name]), [True], [1], [1]) for name in ("A", "C", "D")}
    assert headline_system(names) == "D"
    del names["D"]
    assert headline_system(names) == "C"
    assert headline_system({"A": names["A"]}) is None
    assert found([True], [0], [1.0], name="C")[0]["system"] == "C"
