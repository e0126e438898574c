"""What the page says of costs, prices and schedules, from rows written by hand."""

import copy

import pytest

from specact_rl.eval.report import to_markdown
from specact_rl.eval.report.blocks import Findings, Picture
from specact_rl.eval.report.figures import render
from specact_rl.eval.report.latency_sections import cost_and_latency_section
from specact_rl.eval.report.sensitivity_figure import sensitivity_picture


def mv(value, low=None, high=None, note=None):
    return {
        "value": value, "low": low, "high": high, "n": 400, "num_clusters": 80, "note": note,
    }  # fmt: skip


def cost(relative, wasted=None):
    row = {"relative": relative, "proposer": 0.15, "verifier": 0.1, "strong": 0.5}
    return row if wasted is None else row | {"wasted": wasted}


def against(system, cheaper, at=None):
    return {"system": system, "cheaper": cheaper, "at": at}


def axis(role, *rows, best=None, used=True):
    return {
        "role": role,
        "pareto": [{"from": 0.0, "to": None, "systems": ["B", "D", "A"]}],
        "best": best or [{"from": 0.0, "to": None, "system": "A"}],
        "against_a": list(rows),
        "factors": [0.25, 1.0, 4.0] if used else [],
        "on_pareto": {},
        "best_share": {"D": [0.9, 0.75, 0.1], "A": [0.1, 0.25, 0.9]} if used else {},
    }


BEST = [{"from": 0.0, "to": 1.5, "system": "D"}, {"from": 1.5, "to": None, "system": "A"}]


@pytest.fixture
def results():
    names = {"A": (0.0, 0.0, 1.0), "B": (0.15, 0.0, 0.0), "D": (0.15, 0.1, 0.5)}
    return {
        "replay": {
            "costs": [
                {"name": "A", "n": 400, "flops": cost(mv(1.0, note="by definition"))},
                {"name": "B", "n": 400, "flops": cost(mv(0.15), mv(0.0))},
                {"name": "D", "n": 400, "flops": cost(mv(0.75, 0.7, 0.8), mv(0.2, 0.18, 0.22))},
            ],
            "sensitivity": [
                {
                    "unit": "flops",
                    "cost_weight": 0.02,
                    "n": 400,
                    "num_clusters": 80,
                    "note": None,
                    "num_resamples": 1000,
                    "base": {"proposer": 0.15, "verifier": 0.1, "strong": 1.0},
                    "systems": [
                        {
                            "name": name,
                            "acceptable": 0.7,
                            **dict(zip(("proposer", "verifier", "strong"), shares, strict=True)),
                            "tornado": {
                                role: [0.6, 0.9] for role in ("proposer", "verifier", "strong")
                            },
                        }
                        for name, shares in names.items()
                    ],
                    "axes": [
                        axis(
                            "proposer",
                            against("B", "below", mv(6.67)),
                            against("D", "below", mv(2.0, 1.0, 3.0)),
                            best=BEST,
                        ),
                        axis("verifier", against("B", "always"), against("D", "never")),
                        axis(
                            "strong",
                            against("B", "above", mv(0.15)),
                            against("D", "above", mv(0.5, 0.4, 0.7)),
                        ),
                    ],
                }
            ],
            "latency": {
                "effects": {"read": 0.75, "unknown": 0.25},
                "cost_unit": "flops",
                "ms_per_step": 12.0,
                "rows": [
                    schedule("B", "speculative", mv(0.9, 0.85, 0.95), depth=1),
                    schedule("D", "sequential", mv(0.8, 0.7, 0.9)),
                    schedule("D", "parallel", mv(0.6, 0.5, 0.7)),
                ],
                "breadth": {
                    "coverage": [0.4, 0.5],
                    "effective_draws": [1.0, None],
                    "num_distinct": [0.9, 1.4],
                    "saved_per_second_run": [0.5, None],
                    "rows": [
                        schedule("B", "speculative", mv(0.9, 0.85, 0.95), depth=1, breadth=b)
                        for b in (1, 2)
                    ],
                },
            },
        }
    }


def schedule(system, mode, seconds, depth=None, breadth=None):
    ahead = mode == "speculative"
    return {
        "system": system,
        "mode": mode,
        "depth": depth,
        "effects": ["read"] if ahead else None,
        "breadth": breadth,
        "n": 400,
        "relative_seconds": seconds,
        "speed_up": mv(1 / seconds["value"]),
        "relative_cost": mv(1.4, 1.3, 1.5),
        "strong_calls": 1.2,
        "wasted_runs": 0.3,
        "independent": seconds["value"] - 0.05,
        "over_promise": mv(0.05, 0.02, 0.08),
        "hit_rate": 0.4,
        "formula_saving": 0.2 if ahead else None,
        "formula_saving_committed": 0.1 if ahead else None,
    }


def said(results):
    section = cost_and_latency_section(results)
    [found] = [b for b in section.blocks if isinstance(b, Findings)]
    return {finding.claim: finding for finding in found.items}


def test_d_is_called_cheaper_with_the_prices_at_which_that_ends(results):
    finding = said(results)["D is cheaper than A in FLOPs."]
    assert finding.status == "shown"
    assert "0.75 [0.70, 0.80] times as much, n = 400 steps of 80 tasks" in finding.evidence
    assert "below a price of 0.30 [0.15, 0.45] strong calls for a proposal (now 0.15)" in (
        finding.evidence
    )
    assert "at no price of a score" in finding.evidence
    assert "from 0.50 [0.40, 0.70] times the present price of a strong call on" in finding.evidence


@pytest.mark.parametrize(
    ("relative", "status", "claim"),
    [
        (mv(1.2, 1.1, 1.3), "against", "D is dearer than A in FLOPs."),
        (mv(0.95, 0.9, 1.02), "open", "It is not shown that D is cheaper than A in FLOPs."),
        (mv(0.95), "unknown", "Whether D is cheaper than A in FLOPs cannot be said."),
    ],
)
def test_intervals_decide_whether_d_is_cheaper(results, relative, status, claim):
    results["replay"]["costs"][2]["flops"]["relative"] = relative
    assert said(results)[claim].status == status


def test_the_best_system_comes_with_its_share_of_resamples_and_its_end(results):
    finding = said(results)["Reckoned in FLOPs, D is the best system."]
    assert "75 % of 1000 resamples" in finding.evidence
    assert "up to 1.50 times the present price of a proposal" in finding.evidence
    assert "Also on the Pareto set: B, A." in finding.evidence


def test_speculation_is_told_with_what_other_reckonings_promise(results):
    finding = said(results)[
        "Acting on the cheap model's guesses, one step ahead, saves time."
    ]  # fmt: skip
    assert finding.status == "shown"
    assert "0.90 [0.85, 0.95] times A's seconds" in finding.evidence
    assert "it would be 0.85: +5.0 points [+2.0, +8.0]" in finding.evidence
    assert "promises 20.0 % less time, and with commitment 10.0 %; here it is 10.0 %" in (
        finding.evidence
    )
    results["replay"]["latency"]["rows"][0]["relative_seconds"] = mv(1.0, 0.97, 1.02)
    assert said(results)[
        "It is not shown that acting on the cheap model's guesses, one step ahead, saves time."
    ].status == "open"  # fmt: skip


def test_a_strong_call_beside_the_proposal_that_saves_nothing_is_not_said_to(results):
    assert "Starting the strong call beside D's proposal buys time with calls." in said(results)
    results["replay"]["latency"]["rows"][2]["relative_seconds"] = mv(0.799, 0.7, 0.9)
    assert "Starting the strong call beside D's proposal saves no time." in said(results)


def test_the_tables_say_where_a_system_is_cheaper(results):
    page = to_markdown(results)
    assert "| D | FLOPs | below 2.0 [1.0, 3.0] | never | from 0.50 [0.40, 0.70] |" in page
    assert "| B | FLOPs | below 6.67 | always | from 0.15 |" in page
    assert "75.0 % read, 25.0 % unknown" in page
    assert "1 step ahead reads early" in page


def test_the_picture_marks_the_prices_it_was_given(results):
    picture = sensitivity_picture(results)
    figure = picture.draw()
    top = figure.axes[0]
    dots = [line.get_xydata().tolist() for line in top.get_lines() if line.get_marker() == "o"]
    assert dots == [[[0.3, 1.0]]]  # B's, at 6.67 times the price, is out of the picture
    assert render(picture, "svg").startswith(b"<?xml")


def test_a_price_that_nobody_pays_has_no_panel(results):
    axes = results["replay"]["sensitivity"][0]["axes"]
    axes[1] = axis("verifier", used=False)
    assert len(sensitivity_picture(results).draw().axes) == 2
    axes[0] = axis("proposer", used=False)
    assert sensitivity_picture(results) is None


@pytest.mark.parametrize("missing", ["costs", "sensitivity", "latency"])
def test_any_part_may_be_missing(results, missing):
    rest = copy.deepcopy(results)
    del rest["replay"][missing]
    assert cost_and_latency_section(rest).blocks
    assert "Cost and latency" in to_markdown(rest)
    assert cost_and_latency_section({"replay": {}}) is None


def test_a_study_takes_its_seconds_from_the_log(results):
    def told():
        blocks = cost_and_latency_section(results).blocks
        return " ".join(getattr(b, "text", "") + getattr(b, "caption", "") for b in blocks)

    assert "as shares of the batches" in told()
    results["meta"] = {"study": {"log": "x"}}
    assert "as the log has them" in told()
    assert "shares of the batches" not in told()


def test_without_seconds_there_is_neither_a_picture_nor_a_word_of_schedules(results):
    results["replay"]["latency"] = {}
    page = to_markdown(results)
    assert "ahead" not in page
    assert [b.name for b in cost_and_latency_section(results).blocks if isinstance(b, Picture)] == [
        "sensitivity"
    ]


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({}, "alone; seconds of tools: not known."),
        (
            {"tool_ms_per_step": None, "tool_note": "none were measured"},
            "tools: none were measured.",
        ),
        ({"tool_ms_per_step": 0.0152, "tool_note": None}, "of what was executed, 0.015 ms a step"),
    ],
    ids=["before they were measured", "not measured", "measured"],
)
def test_the_page_says_whether_tools_are_in_the_schedules(results, known, told):
    results["replay"]["latency"] |= known
    texts = [getattr(block, "text", "") for block in cost_and_latency_section(results).blocks]
    assert any(told in text for text in texts)
