import base64
import copy
import hashlib
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from specact_rl.eval.report import terminal_summary, to_markdown, verdicts, write_report
from specact_rl.eval.report.figures import frontier, render
from specact_rl.eval.report.html import drawn_svg, page_html
from specact_rl.eval.report.inline_svg import SVG, XLINK
from specact_rl.eval.report.lookup import agreement, as_elsewhere
from specact_rl.eval.report.numbers import (
    cell,
    detectable,
    independent_difference,
    metric,
    percent,
    points,
)
from specact_rl.eval.report.page import build_page
from specact_rl.eval.report.palette import CSS_NAMES
from specact_rl.eval.report.placement import Box, place_labels
from specact_rl.eval.report.reliability_figure import reliability
from specact_rl.eval.report.run_sections import no_gate
from specact_rl.eval.report.verdicts import findings
from specact_rl.metrics.frontier import agreement_rates
from specact_rl.metrics.values import MetricValue

FIXTURE = Path(__file__).parents[1] / "fixtures" / "report" / "results.json"
PARTS = ("meta", "splits", "replay", "live", "pairs", "training")
REPLAY_PARTS = (  # of evaluate()
    *"proposers ranking baselines verifiers systems references contrasts examples".split(),
    *"curves mistakes value frontier costs sensitivity latency calibration certificates".split(),
)


@pytest.fixture
def results():
    return json.loads(FIXTURE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    written = write_report(json.loads(FIXTURE.read_text(encoding="utf-8")), folder)
    assert all(path.is_file() for path in written)
    return folder


def mv(value, low=None, high=None, n=400, note=None):
    return {
        "value": value, "low": low, "high": high, "n": n, "num_clusters": 50, "note": note,
    }  # fmt: skip


def systems(*rows):
    return {"replay": {"systems": list(rows)}}


def contrast(better, worse, difference, p_holm=0.001):
    row = {"name": "", "better": better, "worse": worse, "difference": difference}
    return {"replay": {"contrasts": [row | {"p_value": p_holm, "p_holm": p_holm}]}}


def only(results):
    found = findings(results)
    assert len(found) == 1, [f.text for f in found]
    return found[0]


# ---------------------------------------------------------------- files


def test_report_has_both_pages_and_the_figures(report_dir, results):
    figures = {path.name for path in (report_dir / "figures").iterdir()}
    names = {picture.name for picture in build_page(results).pictures}
    assert {"frontier", "risk_coverage", "accept_by_type", "live_success"} <= names
    assert figures == {f"{name}.{form}" for name in names for form in ("png", "svg")}

    assert {path.name for path in report_dir.iterdir()} == {"report.md", "report.html", "figures"}


def test_html_needs_no_other_file_and_runs_no_script_but_its_own(report_dir):
    html = (report_dir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<link|<img|<iframe|@import|<\w[^<>]*\ssrc=|url\((?!#)", html)
    assert set(re.findall(r"https?://[^\"\s<]*", html)) <= {SVG, XLINK}  # names, never fetched
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.DOTALL)
    assert [bool(attributes) for attributes, _ in scripts] == [True, False]
    assert 'type="application/json"' in scripts[0][0]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy


def test_html_has_no_id_twice_and_every_reference_has_its_target(report_dir):
    html = (report_dir / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted <= set(ids)


def test_figures_in_html_have_the_colours_of_the_page(report_dir):
    html = (report_dir / "report.html").read_text(encoding="utf-8")
    style = html.split("<style>")[1].split("</style>")[0]
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    assert set(CSS_NAMES.values()) <= used | {"purple", "olive", "steel"}
    for name in used:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "#ffffff" not in drawn.lower()


def test_html_shows_text_of_logs_as_text(report_dir, results):
    assert "<b>Ada</b>" in results["replay"]["examples"][0]["request"]
    assert "</script>" in results["replay"]["mistakes"][0]["request"]
    html = (report_dir / "report.html").read_text(encoding="utf-8")
    assert "<b>Ada</b>" not in html
    assert "&lt;b&gt;Ada&lt;/b&gt;" in html
    assert "&lt;/script&gt;&lt;script&gt;" in html


def test_names_of_systems_cannot_end_the_data_of_the_script(results):
    hostile = "</script><script>alert(1)</script>"
    for row in (results["replay"]["systems"][3], results["replay"]["curves"][1]):
        row["system" if "system" in row else "name"] = hostile
    page = build_page(results)
    html = page_html(page, drawn_svg(page))
    assert hostile not in html
    data = re.search(r'id="explorer-data">(.*?)</script>', html, re.DOTALL).group(1)
    assert json.loads(data)["systems"][1]["name"] == hostile


def test_markdown_links_only_figures_that_were_written(report_dir, results):
    markdown = (report_dir / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", markdown)
    assert len(linked) == len(build_page(results).pictures) >= 4
    anchors = set(re.findall(r"^- \[[^\]]*\]\(#([^)]*)\)$", markdown, re.MULTILINE))
    titles = re.findall(r"^## (.*)", markdown, re.MULTILINE)
    # As GitHub makes them: without punctuation, with hyphens for spaces.
    assert anchors == {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}

    assert all((report_dir / path).is_file() for path in linked)


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head(results):
    lines = to_markdown(results).splitlines()
    tables = 0
    for i, line in enumerate(lines):
        if line.startswith("| ---"):
            tables += 1
            width = len(re.findall(r"(?<!\\)\|", line))
            rows = [lines[i - 1]]
            for row in lines[i + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(row)
            assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {width}
    assert tables >= 12


def test_same_results_draw_the_same_bytes(results):
    picture = reliability(results)
    assert render(picture, "svg") == render(picture, "svg")


def test_results_without_anything_say_so(tmp_path):
    write_report({}, tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "nothing was evaluated" in markdown
    assert "##" not in markdown
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("strong", "said"),
    [
        ({}, "same 3,105 rows (one file, by its hash) with the same settings"),
        ({"rows_sha256": "b"}, "not fine-tuned alike: they differ in rows beside"),
        ({"options_hash": "d"}, "not fine-tuned alike: they differ in settings beside"),
        ({"rows_sha256": None}, None),
    ],
    ids=["alike", "rows", "settings", "unknown"],
)
def test_report_says_whether_cheap_and_strong_were_trained_alike(results, strong, said):
    cheap = {"model": "cheap", "rows": 3105, "rows_sha256": "a", "options_hash": "c"}
    common = {"recipe": "sft_proposer", "seconds": 1.0, "first_loss": 1.0, "last_loss": 0.5}
    results["training"] = [common | cheap, common | cheap | {"model": "strong"} | strong]
    page = " ".join(to_markdown(results).split())
    if said is None:
        assert "fine-tuned" not in page
    else:
        assert said in page


@pytest.mark.parametrize("missing", PARTS)
def test_a_missing_part_leaves_out_its_headings_only(results, missing):
    whole = set(re.findall(r"^## .*", to_markdown(results), re.MULTILINE))
    del results[missing]
    left = set(re.findall(r"^## .*", to_markdown(results), re.MULTILINE))
    headings = {
        "meta": {"## How to reproduce"},
        "pairs": {"## Preference pairs"},
        "splits": set(),
        "training": set(),  # the times of the stages stay
        "live": set(),  # the heading stays, with a line that says why it is empty
        "replay": {
            "## Verdicts",
            "## Systems in replay",
            "## Proposers",
            "## Verifiers",
            "## Calibration",
            "## What a threshold can promise",
            "## What verification is worth",
            "## Frontier",
            "## Cost and latency",
            "## Accept rate by action type",
            "## Declared contrasts",
            "## Threshold explorer",
            "## Most confident mistakes",
            "## Examples of D's decisions",
        },
    }
    assert whole - left == headings[missing]


@pytest.mark.parametrize("missing", REPLAY_PARTS)
def test_any_part_of_the_replay_may_be_empty(results, missing):
    assert missing in results["replay"]
    results["replay"][missing] = []
    assert to_markdown(results).startswith("# ")


def test_no_system_has_live_and_replay_numbers_in_one_row(results):
    markdown = to_markdown(results)
    replay, live = (
        markdown.split(f"## {title}")[1].split("\n## ")[0]
        for title in ("Systems in replay", "Live episodes")
    )
    assert "tasks completed" not in replay
    assert "same arguments" not in live


def test_undefined_number_is_a_dash_with_its_note(results):
    row = results["replay"]["systems"][3]
    row["selective_risk"] = mv(None, n=0, note="nothing is accepted")
    markdown = to_markdown(results)
    line = next(line for line in markdown.splitlines() if line.startswith("| D cheap"))
    letter = re.search(r"– \((\w)\)", line).group(1)
    assert f"({letter}) nothing is accepted." in markdown


def test_terminal_summary_fits_80_columns_and_has_every_system(results):
    stream = io.StringIO()
    terminal_summary(results, Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    first_words = {line.split()[0] for line in lines if line.split()}
    assert {row["name"] for row in results["replay"]["systems"]} <= first_words
    assert "…" not in stream.getvalue()


# ---------------------------------------------------------------- numbers


def test_number_has_no_digit_that_its_interval_does_not_support():
    assert percent(MetricValue(value=0.7149, low=0.68, high=0.75, n=400)).main == "71.5"
    # Half of the interval is 12 points: its second digit is a whole point.
    assert percent(MetricValue(value=0.7149, low=0.60, high=0.84, n=40)).main == "71"
    # Without an interval n = 16 rows decide: 0.98 / 4 is 24 points.
    assert percent(MetricValue(value=0.4375, n=16)).main == "44"
    assert cell(MetricValue(value=0.8512, low=0.7, high=0.95, n=40)).main == "0.85"


def test_difference_shows_its_sign_and_no_negative_zero():
    assert points(MetricValue(value=-0.031, low=-0.06, high=-0.002, n=9)).main == "−3.1"
    assert points(MetricValue(value=0.031, low=0.002, high=0.06, n=9)).main == "+3.1"
    assert points(MetricValue(value=-0.0001, low=-0.02, high=0.02, n=9)).main == "0.0"


def test_detectable_difference_is_2_8_standard_errors():
    # 95 % interval of 0.1 +- 1.96 x 0.01; power 80 % needs (1.960 + 0.842) standard errors.
    m = MetricValue(value=0.1, low=0.1 - 0.0196, high=0.1 + 0.0196, n=100)
    assert detectable(m) == pytest.approx(0.02802, abs=1e-4)
    assert detectable(MetricValue(value=0.1, n=100)) is None


def test_difference_of_independent_numbers_adds_squared_errors():
    a = MetricValue(value=0.6, low=0.57, high=0.64, n=100)
    b = MetricValue(value=0.5, low=0.47, high=0.54, n=100)
    found = independent_difference(a, b)
    # low: sqrt(.03^2 + .04^2) = .05 below .1; high: sqrt(.04^2 + .03^2) = .05 above it
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.05, 0.15))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_agreement_of_the_models_is_recovered_from_the_table(pairs):
    cheap, strong = np.array(pairs, dtype=bool).T
    rates = agreement_rates(cheap, strong)
    found = agreement(
        systems(
            {"name": "A", "acceptable": rates.strong},
            {"name": "B", "acceptable": rates.cheap},
            {"name": "D", "peak_oracle": rates.peak_oracle},
        )
    )
    assert found.only_cheap == pytest.approx(rates.only_cheap)
    assert found.only_strong == pytest.approx(rates.only_strong)


@given(
    st.lists(
        st.tuples(st.floats(150, 450), st.floats(100, 300)), min_size=1, max_size=12, unique=True
    )
)
def test_labels_cover_neither_each_other_nor_a_point(anchors):
    window = Box(left=0, bottom=0, right=600, top=400)
    boxes = place_labels(anchors, [(40.0, 14.0)] * len(anchors), [], window)
    rounding = 1e-6  # anchors may differ in the last bit only
    assert all(a.overlap(b) < rounding for a, b in itertools.combinations(boxes, 2))
    for box in boxes:
        assert box.outside(window) == pytest.approx(0.0, abs=rounding)
        left, right = box.left + rounding, box.right - rounding
        bottom, top = box.bottom + rounding, box.top - rounding
        assert not any(left < x < right and bottom < y < top for x, y in anchors)


# ---------------------------------------------------------------- verdicts


def test_verdicts_are_one_line_each_and_claim_no_equality(results):
    found = verdicts(results)
    assert len(found) >= 10
    for verdict in found:
        assert "\n" not in verdict
        assert not re.search(r"\bequal\b(?! accept rate)|no difference|the same as A", verdict)


@pytest.mark.parametrize(
    ("difference", "p_holm", "status", "words"),
    [
        (mv(0.1, 0.05, 0.15), 0.001, "shown", "better than the cheap one"),
        (mv(-0.1, -0.15, -0.05), 0.001, "against", "worse than the cheap one"),
        (mv(0.02, -0.03, 0.07), 0.5, "open", "not shown that the strong model is better"),
        (mv(0.05, 0.001, 0.1), 0.2, "open", "not after the correction for all contrasts"),
        (mv(0.3, note="no interval: one cluster only"), 0.001, "unknown", "cannot be said"),
        (mv(0.0, note="no interval: one cluster only"), 1.0, "unknown", "(one cluster only)"),
    ],
)
def test_strong_model_beats_cheap_only_when_interval_and_correction_say_so(
    difference, p_holm, status, words
):
    found = only(contrast("A", "B", difference, p_holm))
    assert found.status == status
    assert words in found.text


def test_open_comparison_says_what_could_have_been_seen():
    # Standard error .1 / (2 x 1.96) = .0255; times 2.80 = 7.1 points.
    found = only(contrast("B-dpo", "B", mv(0.0, -0.05, 0.05), 0.9))
    assert found.status == "open"
    assert "about 7.1 points would mostly go unseen" in found.evidence


def test_every_open_verdict_on_d_says_what_could_have_been_seen():
    # Standard error .06 / (2 x 1.96) = .0153; times 2.80 = 4.3 points, or % of A's FLOPs.
    row = {"name": "D", "accept_rate": mv(0.5, 0.4, 0.6), "skill": mv(0.0, -0.03, 0.03)}
    row |= {"skill_among_parsed": mv(0.0, -0.03, 0.03), "relative_flops": mv(1.0, 0.97, 1.03)}
    row |= {"difference_from_a": mv(0.0, -0.03, 0.03), "not_worse_than_a": False}
    found = findings(systems(row))
    assert [f.status for f in found] == ["open"] * 4
    for finding in found:
        assert re.search(r"below about 4\.3 (points|% of A's FLOPs)", finding.evidence)


def test_contrasts_stand_beside_what_they_could_have_shown():
    page = to_markdown(contrast("B-dpo", "B", mv(0.0, -0.05, 0.05), 0.9))
    assert re.search(r"detectable, points", page)
    assert "| 7.1 |" in page


@pytest.mark.parametrize(
    ("difference", "not_worse", "status", "words"),
    [
        (mv(0.0, -0.01, 0.01), True, "shown", "keeps A's accuracy within 2 points"),
        (mv(0.04, 0.01, 0.07), True, "shown", "more accurate than A"),
        (mv(-0.06, -0.08, -0.04), False, "against", "loses more than 2 points"),
        (mv(-0.03, -0.05, -0.01), False, "against", "less accurate than A"),
        (mv(-0.01, -0.04, 0.02), False, "open", "not shown that D keeps A's accuracy"),
    ],
)
def test_accuracy_of_d_is_judged_against_the_margin(difference, not_worse, status, words):
    row = {
        "name": "D",
        "accept_rate": mv(0.5, 0.4, 0.6),
        "difference_from_a": difference,
        "not_worse_than_a": not_worse,
        "equivalence": {"margin": 0.02, "verdict": "inconclusive"},
    }
    found = only(systems(row))
    assert found.status == status
    assert words in found.text


def test_gate_that_accepts_nothing_gets_no_credit_for_accuracy():
    row = {
        "name": "D",
        "threshold": None,
        "accept_rate": mv(0.0),
        "difference_from_a": mv(0.0),
        "not_worse_than_a": True,
        "skill": mv(0.0),
    }
    found = findings(systems(row))
    assert [f.status for f in found] == ["note", "note"]
    assert "because it accepts nothing" in found[0].claim
    assert "strong model at a higher price" in found[1].claim


@pytest.mark.parametrize(("threshold", "rate"), [(0.0, 0.96), (0.3, 1.0)])
def test_gate_that_accepts_everything_it_can_judge_is_named(threshold, rate):
    row = {"name": "C", "threshold": threshold, "accept_rate": mv(rate)}
    assert "its gate decides nothing" in only(systems(row)).claim


def test_system_without_a_gate_is_not_called_degenerate():
    assert verdicts(systems({"name": "B", "accept_rate": mv(1.0)})) == []


@pytest.mark.parametrize(
    ("cost", "overhead", "status", "words"),
    [
        (mv(0.8, 0.75, 0.85), 0.4, "shown", "cheaper than A in FLOPs, by 20 %"),
        (mv(1.3, 1.2, 1.4), 0.4, "against", "breaks even at an accept rate of 40 %"),
        (mv(1.8, 1.7, 1.9), 1.3, "against", "no accept rate can save anything"),
        (mv(1.0, 0.9, 1.1), 0.4, "open", "not shown that D is cheaper"),
    ],
)
def test_cost_of_d_is_explained_by_what_proposing_and_verifying_take(cost, overhead, status, words):
    found = only(
        systems(
            {"name": "D", "relative_flops": cost, "accept_rate": mv(0.5, 0.4, 0.6)},
            {"name": "D-nf", "relative_flops": mv(overhead)},
        )
    )
    assert found.status == status
    assert words in found.text


def test_dearer_fallback_is_told_as_catching_up():
    # (1.3 - 0.4) / (1 - 0.5) = 1.8 average calls per rejection
    found = only(
        systems(
            {"name": "D", "relative_flops": mv(1.3, 1.2, 1.4), "accept_rate": mv(0.5, 0.4, 0.6)},
            {"name": "D-nf", "relative_flops": mv(0.4)},
        )
    )
    assert "1.80 times an average call" in found.evidence


@pytest.mark.parametrize(
    ("gains", "status", "words"),
    [
        ([mv(0.05, 0.02, 0.08), mv(0.03, 0.01, 0.05)], "shown", "beats every free one"),
        ([mv(0.05, 0.02, 0.08), mv(0.01, -0.02, 0.04)], "open", "not shown"),
        ([mv(0.05, 0.02, 0.08), mv(-0.03, -0.05, -0.01)], "against", "worse than linear features"),
    ],
)
def test_trained_verifier_has_to_beat_all_free_ones(gains, status, words):
    row = {
        "name": "classifier",
        "system": "D",
        "n": 400,
        "auroc": mv(0.8, 0.76, 0.84),
        "gain_over": dict(zip(("proposer_logprob", "linear"), gains, strict=True)),
    }
    found = findings({"replay": {"verifiers": [row]}})[0]
    assert found.status == status
    assert words in found.claim


@pytest.mark.parametrize(
    ("auroc", "status"),
    [
        (mv(0.85, 0.82, 0.88), "shown"),
        (mv(0.85, 0.79, 0.9), "open"),
        (mv(0.7, 0.65, 0.75), "against"),
        (mv(1.0, note="no interval: the same in every draw"), "unknown"),
    ],
)
def test_ranking_is_judged_against_its_target(auroc, status):
    row = {"name": "classifier", "system": "D", "n": 400, "auroc": auroc}
    assert only({"replay": {"verifiers": [row]}}).status == status


def test_ranking_within_action_types_is_a_verdict_of_its_own():
    row = {
        "name": "classifier",
        "system": "D",
        "n": 400,
        "auroc": mv(0.9, 0.85, 0.95),
        "auroc_same_type": mv(0.52, 0.45, 0.59),
        "auroc_within_types": {"repair": mv(0.6, 0.51, 0.7), "file_read": mv(0.5, 0.4, 0.6)},
    }
    overall, within = findings({"replay": {"verifiers": [row]}})
    assert (overall.status, within.status) == ("shown", "open")
    assert "above chance in 1 of 2; not shown for file read" in within.evidence


def test_verdict_on_several_proposals_says_whether_the_verifier_can_choose():
    rows = [
        {"name": "classifier", "system": "D", "auroc_same_step": mv(0.55, 0.5, 0.6)},
        {"name": "linear", "system": "D-lin+", "auroc_same_step": mv(0.85, 0.8, 0.9)},
    ]
    gain = contrast("E-lin+", "D-lin+", mv(0.03, 0.02, 0.04))["replay"]["contrasts"]
    results = contrast("E", "D", mv(-0.01, -0.02, -0.001))
    results["replay"]["contrasts"] += gain
    results["replay"]["verifiers"] = rows
    found = only(results)
    assert found.status == "against"
    assert "puts the acceptable one first in 55.0 % [50.0, 60.0] (chance 50 %)" in found.evidence
    assert "linear features and confidence in 85.0 %" in found.evidence
    assert "E − D = +3.0 points [+2.0, +4.0], Holm p = 0.001." in found.evidence


def test_calibration_that_reaches_the_target_says_so_only_with_skill():
    row = {
        "name": "classifier",
        "system": "D",
        "n": 400,
        "debiased_ece": mv(0.02),
        "null_band": {"observed": 0.02, "low": 0.0, "high": 0.06, "p_value": 0.4},
        "brier_skill": mv(0.2, 0.1, 0.3),
        "accepted": {"n": 90, "mean_p_accept": 0.81, "acceptable": mv(0.8, 0.7, 0.88, n=90)},
    }
    found = only({"replay": {"verifiers": [row]}})
    assert "reach the target" in found.claim
    assert "the mean probability is 81.0 % and 80.0 % [70.0, 88.0] are acceptable" in found.evidence
    without = only({"replay": {"verifiers": [row | {"brier_skill": mv(0.02, -0.1, 0.12)}]}})
    assert "reach the target" not in without.claim


@pytest.mark.parametrize(
    ("error", "p_value", "status"),
    [(0.09, 0.001, "against"), (0.03, 0.3, "open"), (0.058, 0.03, "open")],
)
def test_calibration_is_judged_against_the_null_band(error, p_value, status):
    row = {
        "name": "classifier",
        "system": "D",
        "n": 400,
        "debiased_ece": mv(error),
        "null_band": {"observed": error, "low": 0.0, "high": 0.06, "p_value": p_value},
        "brier_skill": mv(-0.01),
    }
    found = only({"replay": {"verifiers": [row]}})
    assert found.status == status
    assert "no more than the base rate" in found.evidence


def test_live_order_that_differs_beyond_chance_is_held_against_replay():
    def both(live_a, live_b):
        replay = systems({"name": "A", "acceptable": mv(0.7)}, {"name": "B", "acceptable": mv(0.6)})
        live = [{"name": "A", "success": live_a}, {"name": "B", "success": live_b}]
        return only(replay | {"live": live})

    assert both(mv(0.5, 0.4, 0.6), mv(0.3, 0.2, 0.4)).status == "note"
    assert both(mv(0.5, 0.4, 0.6), mv(0.55, 0.45, 0.65)).status == "open"
    swapped = both(mv(0.3, 0.25, 0.35), mv(0.6, 0.55, 0.65))
    assert swapped.status == "against"
    assert "1 of 1 pairs" in swapped.claim


def test_drop_outside_the_families_has_an_interval():
    # .6 [.55, .65] inside, .4 [.35, .45] outside: -20 points +- sqrt(2) x 5 = 7.1
    groups = {
        "in_family": {"acceptable": mv(0.6, 0.55, 0.65)},
        "out_of_family": {"acceptable": mv(0.4, 0.35, 0.45)},
    }
    found = only({"replay": {"proposers": [{"role": "cheap", "groups": groups}]}})
    assert found.status == "against"
    assert "−20.0 points [−27.1, −12.9]" in found.evidence


def test_family_without_a_single_success_is_worse_not_unsettled():
    # 0 of 870 has Wilson's interval [0, 3.7]: -8.2 points, up to -8.2 + sqrt(1.7^2 + 3.7^2) = -4.1
    groups = {
        "in_family": {"acceptable": mv(0.082, 0.065, 0.1, n=2001)},
        "out_of_family": {"acceptable": mv(0.0, 0.0, 0.037, n=870)},
    }
    found = only({"replay": {"proposers": [{"role": "strong", "groups": groups}]}})
    assert found.status == "against"
    assert found.claim == "The strong model is worse on task families it never saw."
    assert "−8.2 points [−10.0, −4.1]" in found.evidence


def test_families_without_an_interval_are_no_evidence():
    groups = {
        "in_family": {"acceptable": mv(0.082, 0.065, 0.1)},
        "out_of_family": {"acceptable": mv(0.0, note="no interval: one cluster only")},
    }
    found = only({"replay": {"proposers": [{"role": "strong", "groups": groups}]}})
    assert found.status == "unknown"
    assert "is shown" not in found.text


def test_system_that_is_compared_within_families_is_held_against_a_there():
    families = {
        "in_family": {"acceptable": mv(0.5, 0.45, 0.55)},
        "out_of_family": {
            "acceptable": mv(0.3, 0.25, 0.35),
            "difference_from_a": mv(0.05, 0.01, 0.09),
        },
    }
    found = only(systems({"name": "D", "families": families}))
    assert found.claim == "D is worse on task families it never saw."
    assert "D − A = +5.0 points [+1.0, +9.0]" in found.evidence


@pytest.mark.parametrize(
    ("gains", "status", "words"),
    [
        ([mv(0.05, 0.02, 0.08), mv(0.03, 0.01, 0.05)], "shown", "beats the baselines"),
        ([mv(0.05, 0.02, 0.08), mv(0.01, -0.02, 0.04)], "open", "(nearest neighbour)"),
        ([mv(-0.05, -0.08, -0.02), mv(0.01, -0.02, 0.04)], "against", "worse than a baseline"),
        ([mv(0.05, 0.02, 0.08), mv(0.0)], "unknown", "cannot be said"),
    ],
)
def test_cheap_proposer_has_to_beat_every_baseline(gains, status, words):
    names = ("markov", "nearest_neighbour")
    rows = [
        {"name": name, "arguments": mv(0.1), "cheap_minus_baseline": gain}
        for name, gain in zip(names, gains, strict=True)
    ]
    found = only({"replay": {"baselines": rows}})
    assert found.status == status
    assert words in found.claim


def gated(skill, own, rate=0.4):
    return systems(
        {
            "name": "D",
            "proposer": "cheap",
            "num_proposals": 1,
            "acceptable": mv(0.13, 0.11, 0.15),
            "accept_rate": mv(rate, rate - 0.03, rate + 0.03),
            "parse_rate": 0.414,
            "skill": skill,
            "skill_among_parsed": own,
            "over_accept_what_parses": mv(0.0, -0.01, 0.01),
        }
    )


@pytest.mark.parametrize(
    ("own", "rate", "statuses", "words"),
    [
        (mv(0.03, 0.02, 0.04), 0.4, ["shown", "shown"], "D's verifier adds to the parser"),
        (mv(0.001, -0.001, 0.003), 0.4, ["shown", "open"], "not shown that D's verifier adds"),
        (mv(-0.01, -0.02, -0.005), 0.4, ["shown", "against"], "takes from what the parser gives"),
        (mv(0.0, note="0 by definition"), 0.414, ["shown", "against"], "adds nothing to the"),
        (mv(0.01, note="no interval: one cluster only"), 0.4, ["shown", "unknown"], "cannot be"),
    ],
)
def test_gain_of_the_verifier_is_told_apart_from_that_of_the_parser(own, rate, statuses, words):
    found = findings(gated(mv(0.048, 0.04, 0.056), own, rate))
    assert [finding.status for finding in found] == statuses
    assert "parser and verifier together" in found[0].claim
    assert words in found[1].claim


def test_where_everything_parses_nothing_is_said_of_a_parser(results):
    for row in results["replay"]["systems"]:
        if row.get("parse_rate") is not None:
            row["parse_rate"] = 1.0
    text = to_markdown(results)
    assert "parser and verifier together" not in text
    assert "among what parses" not in text.split("## Declared contrasts")[0]
    assert "| parses" not in text


def test_a_verifier_that_costs_something_is_not_called_free():
    row = {
        "name": "reward",
        "system": "D",
        "n": 400,
        "auroc": mv(0.8, 0.76, 0.84),
        "gain_over": {"probe": mv(0.05, 0.02, 0.08), "linear": mv(0.03, 0.01, 0.05)},
    }
    found = findings({"replay": {"verifiers": [row]}})[0]
    assert found.claim == "The trained verifier beats probe and linear features."


def test_one_number_has_one_interval_on_the_page():
    ours, there = metric({"m": mv(0.5, 0.4, 0.6)}, "m"), metric({"m": mv(0.5, 0.41, 0.59)}, "m")
    other = metric({"m": mv(0.51, 0.42, 0.6)}, "m")
    assert as_elsewhere(ours, there) == there
    assert as_elsewhere(ours, other) == ours
    assert as_elsewhere(ours, None) == ours


def test_systems_without_a_gate_for_one_reason_share_a_sentence():
    told = no_gate({"D": "no scores.", "E": "no scores", "D-x": "constant"})
    assert told == [
        "There is no gate for D and E: no scores.",
        "There is no gate for D-x: constant.",
    ]


def test_examples_without_any_text_are_left_out(results):
    for row in results["replay"]["examples"]:
        row |= dict.fromkeys(("request", "last", "proposal", "fallback", "reference"))
    assert "Examples of D's decisions" not in to_markdown(results)


def test_what_the_parser_contributes_is_the_rest_of_the_skill():
    results = gated(mv(0.048, 0.04, 0.056), mv(0.001, -0.001, 0.003))
    results["replay"]["references"] = [
        {
            "name": "parses",
            "proposer": "cheap",
            "num_proposals": 1,
            "acceptable": mv(0.13, 0.1, 0.16),
        }
    ]
    text = findings(results)[1].evidence
    assert "the other +4.7 points of D's skill are the parser's" in text
    assert "Accepting whatever parses is right in 13.0 % [10.0, 16.0]" in text


def test_contrast_at_the_arguments_level_is_told_beside_the_other():
    first, second = (
        contrast("A", "B", difference)["replay"]["contrasts"][0]
        for difference in (mv(0.1, 0.05, 0.15), mv(-0.1, -0.15, -0.05))
    )
    results = {"replay": {"contrasts": [first, second | {"level": "arguments"}]}}
    assert [finding.status for finding in findings(results)] == ["shown", "against"]


def test_gates_that_decide_nothing_share_one_sentence():
    rows = [{"name": n, "threshold": 0.0, "accept_rate": mv(0.4)} for n in ("C", "D-rm", "D-lin")]
    found = only(systems(*rows))
    assert found.claim.startswith("C, D-rm and D-lin accept every proposal")


def test_frontier_shows_what_accepting_all_that_parses_comes_to(results):
    def texts():
        drawn = frontier(results).draw()
        return {text.get_text() for text in drawn.axes[0].texts}

    words = {"accept what parses", "random among what parses"}
    assert words <= texts()
    results["replay"]["references"] = []
    assert not words & texts()


def test_families_table_has_the_seven_systems(results):
    lines = iter(to_markdown(results).splitlines())
    assert any("out of family, − A, points" in line for line in lines)
    next(lines)
    names = [line.split()[1] for line in itertools.takewhile(str.strip, lines)]
    assert names == ["A", "B", "C", "D", "E", "B-dpo", "D-dpo"]


def test_reading_a_report_changes_nothing_in_the_results(results):
    before = copy.deepcopy(results)
    to_markdown(results)
    verdicts(results)
    assert results == before
