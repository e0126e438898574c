"""Published tables: what they say about themselves, and how a bad one is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from specact_rl import cli
from specact_rl.errors import ConfigError
from specact_rl.eval.audit import fitting_counts, implied_strong, true_cost, unpaired_z
from specact_rl.eval.audit_findings import findings
from specact_rl.eval.audit_page import audit_page
from specact_rl.eval.published import Published, read_published

SOURCE = Path(__file__).parents[1] / "fixtures" / "audit" / "source_report.yaml"
CSV = """\
config,accuracy,cost,accept_rate,accepted_accuracy,n,num_proposals
A,0.600,1.00,,,1000,0
B,0.500,0.15,,,1000,1
D,0.590,0.65,0.600,0.650,1000,1
"""


@pytest.fixture
def source():
    return read_published(SOURCE)


@pytest.fixture
def fine(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


def row(table, config):
    return next(row for row in table.rows if row.config == config)


def told(table, words):
    found = [f.text for f in findings(table) if words in f.text]
    assert found, [f.text for f in findings(table)]
    return found[0]


# The source report's own numbers ------------------------------------------------------------------


def test_true_costs_of_the_source_report_pay_for_every_fallback(source):
    paid = {r.config: true_cost(r, source.costs) for r in source.rows}
    assert paid == pytest.approx({"A": 1.0, "B": 0.15, "C": 1.25, "D": 1.035, "E": None})
    assert "1.035, not 0.250" in told(source, "D pays for no fallback")
    assert "from 0.750 to 1.750" in told(source, "E pays for no fallback")
    assert not [f for f in findings(source) if f.claim.startswith("C pays")]  # it had been charged


def test_verifier_of_half_the_price_changes_the_true_cost():
    table = read_published(SOURCE, {"verifier": 0.05})
    assert true_cost(row(table, "D"), table.costs) == pytest.approx(0.985)


def test_d_of_the_source_report_cannot_have_a_fallback(source):
    found = implied_strong(row(source, "D"), row(source, "A"), row(source, "B"))
    assert found.value == pytest.approx((0.400 - 0.785 * 0.51) / 0.215)
    assert found.value == pytest.approx(-0.0016, abs=5e-5)
    assert found.low < found.value < found.high
    text = told(source, "D as published cannot be a system with a fallback")
    assert "−0.0016" in text
    assert "0.4237" in text  # of a gate that knows nothing
    # No hit among 43 of 200 items of which 80 are hits: 120! 157! / (77! 200!).
    chance = math.comb(120, 43) / math.comb(200, 43)
    assert f"{chance:.0e}" in text


def test_rounding_range_holds_every_number_that_rounds_to_what_is_printed(source):
    d, a, b = (row(source, name) for name in "DAB")
    found = implied_strong(d, a, b)
    for shift in (-0.00049, 0.0, 0.00049):
        moved = replace(d, accuracy=Published(value=0.51 + shift, places=3))
        assert found.low <= implied_strong(moved, a, b).value <= found.high


def test_21_5_percent_of_500_is_no_count_and_200_fits_all_rows(source):
    assert Published(value=0.215, places=3).count_of(500) is None
    assert fitting_counts(source, 500)[0] == 200
    text = told(source, "n = 500 is impossible")
    assert "107.5 items" in text
    assert "200, 400" in text


def test_b_against_e_is_not_established_and_b_against_a_is(source):
    assert unpaired_z(0.51, 0.42, 200) == pytest.approx(1.81, abs=0.005)
    assert unpaired_z(0.51, 0.40, 200) == pytest.approx(2.22, abs=0.005)
    text = told(source, "It is not shown that B is better than E")
    assert "z = 1.81, p = 0.070, n = 200" in text
    assert not [f for f in findings(source) if "B is better than A" in f.text]
    # That many items make it significant, one fewer does not.
    assert "n = 235" in text
    for n, significant in ((235, True), (234, False)):
        p = 2.0 * stats.norm.sf(unpaired_z(0.51, 0.42, n))
        assert bool(p <= 0.05) is significant


def test_source_reports_gate_is_below_break_even_and_its_fallback_worth_nothing(source):
    assert "0.215 accepted, 0.25 needed" in told(source, "D accepts too little")
    assert "loses 11 points" in told(source, "The fallback is weaker than the proposer")
    assert "B dominates A, C, D and E" in told(source, "dominates")
    assert "accepts no proposal" in told(source, "The gate of C decides nothing")


def test_wilson_intervals_are_those_at_200(source):
    text = str(audit_page(source).sections)
    for interval in ("[33.5, 46.9]", "[44.1, 57.8]", "[35.4, 48.9]", "[16.4, 27.7]"):
        assert interval in text


# Other tables -------------------------------------------------------------------------------------


def test_table_that_holds_together_gets_no_complaint(fine):
    table = read_published(fine)
    # 600 accepted of which 390 right, 200 of 400 rejected: .59. Cost .25 + .4.
    assert true_cost(row(table, "D"), table.costs) == pytest.approx(0.65)
    assert implied_strong(row(table, "D"), row(table, "A"), None).value == pytest.approx(2 / 3)
    assert not [f.text for f in findings(table) if f.status == "against"]
    assert "D can be a system with a fallback" in told(table, "can be")


def test_strong_model_cannot_be_right_on_more_accepted_items_than_on_all(fine):
    # D .220 = .9 x .600 + rejected, so that rejected is below 0; A would be right in .8 of 900
    # items and is right in 400 of 1,000.
    rows = CSV.replace("A,0.600", "A,0.400").replace("B,0.500", "B,0.600")
    fine.write_text(
        rows.replace("D,0.590,0.65,0.600,0.650", "D,0.220,0.35,0.900,0.600"), encoding="utf-8"
    )
    text = told(read_published(fine), "D as published cannot be")
    assert "= 0.8000" in text
    assert "at most 0.445 of those" in text  # .4005 / .8995


def test_identity_that_rests_on_an_assumption_is_not_called_impossible(fine):
    # With .250 accepted and all right A may be right in .4 of those: .25 + .60 - .25 x .4 = .75.
    fine.write_text(CSV.replace("0.590,0.65,0.600,0.650", "0.750,1.0,0.250,"), encoding="utf-8")
    table = read_published(fine)
    assert implied_strong(row(table, "D"), row(table, "A"), row(table, "B")).value < 0.0
    assert "their accuracy is not published" in told(table, "only if the proposals it accepted")
    assert not [f for f in findings(table) if "as published cannot be" in f.claim]
    # No gate at all: .25 + min(.75, .6) = .85.
    fine.write_text(CSV.replace("0.590,0.65,0.600,0.650", "0.860,1.0,0.250,"), encoding="utf-8")
    assert told(read_published(fine), "D as published cannot be")


def test_what_rounding_allows_is_not_called_impossible(fine):
    # .60 + (.40 - .47) / .10 = -.1, which rounding moves by more than .1. The shares are counts
    # over 30, of which 3 were accepted: A is wrong in all three by chance in C(18,3) / C(30,3).
    rows = CSV.replace("0.600,1.00,,,1000", "0.40,1.00,,,").replace("0.500,0.15,,,1000", "0.50,,,,")
    fine.write_text(
        rows.replace("0.590,0.65,0.600,0.650,1000", "0.47,1.15,0.10,0.60,"), encoding="utf-8"
    )
    table = read_published(fine)
    found = implied_strong(row(table, "D"), row(table, "A"), row(table, "B"))
    assert found.value < 0.0 < found.high
    text = told(table, "only near an end of what rounding allows")
    assert f"{math.comb(18, 3) / math.comb(30, 3):.0e}" in text
    assert not [f for f in findings(table) if "as published cannot be" in f.claim]


def test_system_of_unknown_accept_rate_dominates_nothing_that_it_may_cost_more_than(fine):
    # E tries for .75 and may cost up to 1.75, more than A does.
    rows = CSV.replace("D,0.590,0.65,0.600,0.650,1000,1", "E,0.650,1.00,,,1000,3")
    fine.write_text(rows.replace("B,0.500,0.15,,,1000,1\n", ""), encoding="utf-8")
    assert not [f for f in findings(read_published(fine)) if "dominates" in f.claim]


def test_cost_that_follows_from_nothing_is_named(fine):
    fine.write_text(CSV.replace("0.65,0.600", "0.40,0.600"), encoding="utf-8")
    assert "Printed 0.40, expected 0.650" in told(read_published(fine), "does not follow")


def test_gate_that_accepts_nothing_but_is_not_a_is_named(fine):
    fine.write_text(CSV.replace("0.65,0.600,0.650", "1.25,0.0,"), encoding="utf-8")
    text = told(read_published(fine), "decides nothing")
    assert "would have to be that of A, 0.600, and is 0.590" in text


def test_percentages_mean_what_they_say(fine):
    fine.write_text(CSV.replace("0.590", "59.0%"), encoding="utf-8")
    assert row(read_published(fine), "D").accuracy == Published(value=0.59, places=3)


def test_without_n_the_smallest_that_fits_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("config,accuracy,num_proposals\nA,0.333,0\nB,0.667,1\n", encoding="utf-8")
    table = read_published(path)
    assert "is 3." in told(table, "No number of items is published")
    assert fitting_counts(table, 9) == [3, 6, 9]


def test_one_row_alone_makes_a_page(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("config,accuracy\nB,1.0\n", encoding="utf-8")
    assert audit_page(read_published(path)).sections


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("0.590", "1.59", r"table\.csv:4: accuracy must be in \[0, 1\]"),
        ("0.590", "good", r"table\.csv:4: accuracy must be a number, got 'good'"),
        ("0.590", "", r"table\.csv:4: needs accuracy"),
        ("0.600,0.650", "-0.1,", r"table\.csv:4: accept_rate must be in"),
        ("0.65,", "-1,", r"table\.csv:4: cost must not be negative"),
        (",1000,1\nD", ",10.5,1\nD", r"table\.csv:3: n must be a whole number"),
        ("B,", "A,", r"table\.csv:3: 'A' stands at .*:2 already"),
        ("accuracy,cost", "precision,cost", r"table\.csv:1: needs a column 'accuracy'"),
        ("cost,", "price,", r"table\.csv:1: \['price'\] are not known"),
        ("1000,0", "1000", r"table\.csv:2: must have 7 cells, got 6"),
        (CSV, "", r"table\.csv:1: needs a column 'config'"),
        (CSV.partition("\n")[2], "", r"must have at least one system"),
        ("1.00,,", "1.00,0.5,", r"table\.csv:2: without proposals there is no accept rate"),
    ],
)
def test_bad_csv_is_refused_with_its_line(fine, old, new, complaint):
    assert old in CSV
    fine.write_text(CSV.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint):
        read_published(fine)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("systems: [", "must be YAML"),
        ("- 1", r"t\.yaml:1: must be a table of names"),
        ("n: 4", r"t\.yaml:1: needs a list of systems"),
        ("systems:\n  - {config: A, accuracy: [1]}", r"t\.yaml:2: must be a single value"),
        ("systems:\n  - {config: A, acc: 1}", r"t\.yaml:2: \['acc'\] are not known"),
        ("systems:\n  - {config: A, accuracy: 2}", r"t\.yaml:2: accuracy must be in"),
        ("what: 1\nsystems: []", r"t\.yaml:1: \['what'\] are not known"),
        ("systems: []", "at least one system"),
        (
            "unit_costs: {cheap: -1}\nsystems:\n  - {config: A, accuracy: 1}",
            "cheap cost must not be negative",
        ),
        ("unit_costs: {big: 1}\nsystems:\n  - {config: A, accuracy: 1}", r"t\.yaml:1: \['big'\]"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(tmp_path, text, complaint):
    path = tmp_path / "t.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint):
        read_published(path)


# The command --------------------------------------------------------------------------------------


def test_command_prints_the_page_and_writes_it(tmp_path, capsys):
    out = tmp_path / "audit.md"
    assert cli.main(["audit", str(SOURCE), "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "D as published cannot be a system with a fallback on A." in printed
    page = out.read_text(encoding="utf-8")
    assert page.startswith("# Audit of published numbers: speculative tool actions")
    assert "| B − E | +9.0 [−0.8, +18.5] | 1.81 | 0.070 |" in page


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["missing.csv"], "missing.csv"),
        ([str(SOURCE), "--unit-costs", "cheap"], "--unit-costs must be ROLE=COST"),
        ([str(SOURCE), "--unit-costs", "big=1"], "['big'] are not known"),
        ([str(SOURCE), "--unit-costs", "strong=0"], "must be above 0"),
        ([str(SOURCE), "--out", str(SOURCE)], "is not overwritten"),
    ],
)
def test_command_refuses_with_exit_code_2(arguments, complaint, capsys):
    assert cli.main(["audit", *arguments]) == 2
    assert complaint in capsys.readouterr().err
