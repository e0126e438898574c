"""The report in a real browser: what it runs, shows and refuses. Skipped where there is none."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from specact_rl.eval.report import write_report

RESULTS = Path(__file__).parents[1] / "fixtures" / "report" / "results.json"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"needs one of {', '.join(NAMES)} on the path"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-extensions "
    "--allow-file-access-from-files --enable-logging=stderr --window-size=1200,900 "
    "--virtual-time-budget=5000 --dump-dom"
).split()
DARK = "--blink-settings=preferredColorScheme=0"

# Loads the page, as it is, in frames of a phone's width with and without scripts, acts on it from
# outside and writes what it saw. A window of its own cannot be narrower than 500 pixels.
OUTSIDE = """<!doctype html><meta name="color-scheme" content="light dark"><body>
<iframe id="live" src="report.html" style="width:390px;height:800px"></iframe>
<iframe id="dead" src="report.html" sandbox="allow-same-origin" style="width:360px;height:800px">
</iframe><script>
const seen = {};
const frame = (id) => document.getElementById(id).contentDocument;
function numbers(page) {
  const rows = [...page.querySelectorAll("#explorer-numbers tbody tr")];
  return Object.fromEntries(rows.map((row) => [row.dataset.key, row.lastElementChild.textContent]));
}
function set(page, id, value, type) {
  page.getElementById(id).value = value;
  page.getElementById(id).dispatchEvent(new Event(type, { bubbles: true }));
}
const state = (page) => page.getElementById("explorer-state").textContent;
const dots = (page) => [...page.querySelectorAll(".here")].map((dot) =>
  `${dot.closest("svg").id} ${dot.getAttribute("cx")} ${dot.getAttribute("cy")}`);
const visible = (page) => [...page.querySelectorAll("#mistakes > details")]
  .filter((item) => item.checkVisibility()).map((item) => item.textContent);

function luminance(colour) {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function background(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
}
function contrast(page, selector, property = "color") {
  const found = page.querySelector(selector);
  const [a, b] = [getComputedStyle(found)[property], background(found)].map(luminance);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}

function look() {
  const page = frame("live"), dead = frame("dead");
  seen.widths = [page, dead].map((p) => [p.documentElement.scrollWidth, p.defaultView.innerWidth]);
  seen.requests = page.defaultView.performance.getEntriesByType("resource").map((r) => r.name);
  seen.title = [page.title, dead.title];
  seen.frozen = { state: state(page), numbers: numbers(page), dots: dots(page) };
  const slider = page.getElementById("explorer-threshold");
  seen.place = Number(slider.value);
  set(page, "explorer-threshold", 3, "input");
  seen.moved = { state: state(page), numbers: numbers(page), dots: dots(page) };
  seen.spoken = slider.getAttribute("aria-valuetext");
  seen.address = page.location.hash;
  page.getElementById("explorer-frozen").click();
  seen.back = { state: state(page), numbers: numbers(page), dots: dots(page) };
  set(page, "explorer-system", "E", "change");
  seen.other = { numbers: numbers(page), place: Number(slider.value) };
  seen.first = visible(page);
  page.getElementById("mistakes-after").click();
  seen.second = visible(page);
  set(page, "mistakes-group", "rejected, acceptable", "input");
  seen.rejected = visible(page);
  set(page, "mistakes-group", "", "input");
  set(page, "mistakes-search", "NEEDLE", "input");
  seen.searched = visible(page);
  seen.unlabelled = [...page.querySelectorAll("select, input, button")]
    .filter((c) => !c.labels?.length && !c.textContent.trim()).map((c) => c.id);
  seen.dead = {
    explorer: dead.getElementById("explorer").checkVisibility(),
    controls: dead.getElementById("mistakes-controls").checkVisibility(),
    tables: dead.querySelectorAll("#threshold-explorer table tbody tr").length,
    mistakes: visible(dead).length,
  };
  seen.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  seen.paper = getComputedStyle(page.body).backgroundColor;
  set(page, "explorer-threshold", 3, "input");
  seen.contrast = {
    text: contrast(page, "main p"), caption: contrast(page, "main .caption"),
    link: contrast(page, "nav a"), tag: contrast(page, ".tag.shown"),
    against: contrast(page, ".tag.against"), open: contrast(page, ".tag.open"),
    warning: contrast(page, "#explorer-state"), plot: contrast(page, ".plots text", "fill"),
    tick: contrast(page, ".plots .tick", "fill"), button: contrast(page, "#mistakes-after"),
    figure: contrast(page, "#systems-in-replay figure svg g[id*=text] g", "fill"),
  };
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
}
window.addEventListener("load", () => setTimeout(look, 200));
</script>"""


def open_page(address, folder, *flags):
    """The page's DOM once its scripts have run, and what the browser logged of them."""
    done = subprocess.run(
        [BROWSER, *FLAGS, *flags, f"--user-data-dir={folder}", address],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "<html" in done.stdout, done.stderr[-2000:]
    return done.stdout, console


@pytest.fixture(scope="module")
def results():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser")
    write_report(results, path)
    (path / "outside.html").write_text(OUTSIDE, encoding="utf-8")
    return path


def look(folder, tmp_path_factory, *flags):
    dom, console = open_page(
        (folder / "outside.html").as_uri(), tmp_path_factory.mktemp("profile"), *flags
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found, console
    return json.loads(html.unescape(found.group(1))) | {"console": console}


@pytest.fixture(scope="module")
def seen(folder, tmp_path_factory):
    return look(folder, tmp_path_factory)


def shown(curve, i):
    """The numbers of a curve at one place, as the page writes them."""
    texts = {
        "threshold": "none" if curve["threshold"][i] is None else f"{curve['threshold'][i]:.3f}"
    }
    texts["num_accepted"] = str(curve["num_accepted"][i])
    for key in ("accept_rate", "selective_risk", "acceptable", "strong_calls"):
        value = curve[key][i]
        texts[key] = "–" if value is None else f"{100 * value:.1f} %"
    for key in ("relative_flops", "assumed_cost"):
        texts[key] = f"{curve[key][i]:.2f}"
    return texts


def close(texts, wanted):
    """Equal but for the last digit, which the two languages may round apart."""
    assert texts.keys() == wanted.keys()
    for key, text in wanted.items():
        ours, theirs = (float(re.sub("[^0-9.]", "", t) or "nan") for t in (text, texts[key]))
        assert ours == pytest.approx(theirs, abs=0.11, nan_ok=True), key


def curve_of(results, name):
    return next(c for c in results["replay"]["curves"] if c["system"] == name)


def test_slider_moves_numbers_and_plots_and_they_are_those_of_the_results(seen, results):
    d, e = curve_of(results, "D"), curve_of(results, "E")
    assert seen["place"] == d["frozen"]
    close(seen["frozen"]["numbers"], shown(d, d["frozen"]))
    assert "a result" in seen["frozen"]["state"]
    close(seen["moved"]["numbers"], shown(d, 3))
    assert "not a result" in seen["moved"]["state"]
    assert f"{100 * d['accept_rate'][3]:.1f} % accepted" in seen["spoken"]
    before, after = (set(seen[when]["dots"]) for when in ("frozen", "moved"))
    assert {dot.split()[0] for dot in after} == {"plot-risk", "plot-frontier", "plot-threshold"}
    assert not before & after  # the dot has moved in every plot
    assert seen["back"] == seen["frozen"]
    assert seen["other"]["place"] == e["frozen"]
    close(seen["other"]["numbers"], shown(e, e["frozen"]))


def test_a_gate_that_could_score_nothing_is_drawn_without_an_error(results, tmp_path):
    curve = {
        key: value[:1] if isinstance(value, list) else value
        for key, value in curve_of(results, "D").items()
    }
    unknown = dict.fromkeys(("relative_flops", "assumed_cost", "random_gate", "oracle_gate"))
    curve |= unknown | {"frozen": 0, "worst_gate": None, "acceptable": [0.5]}
    write_report({"replay": {"curves": [curve]}}, tmp_path)
    dom, console = open_page((tmp_path / "report.html").as_uri(), tmp_path / "profile")
    assert console == []
    assert "NaN" not in dom.split("</main>")[0]
    assert (
        '<tr data-key="selective_risk"><td class="word">wrong among accepted</td><td>–</td>' in dom
    )


def test_address_brings_back_system_and_threshold_without_a_word_on_the_console(
    seen, folder, results, tmp_path
):
    e = curve_of(results, "E")
    address = f"#explorer&system=E&cost=assumed_cost&threshold={e['threshold'][5]}"
    dom, console = open_page((folder / "report.html").as_uri() + address, tmp_path)
    assert console == []
    cells = re.findall(r'<tr data-key="(\w+)">.*?<td>([^<]*)</td></tr>', dom)
    close(dict(cells), shown(e, 5))
    assert seen["address"].startswith("#explorer&system=D&")
    assert f"threshold={curve_of(results, 'D')['threshold'][3]}" in seen["address"]


def test_page_asks_the_network_for_nothing_and_texts_of_logs_stay_texts(seen, results):
    assert seen["requests"] == []
    # The frame without scripts has one to refuse, which the browser mentions.
    assert [line for line in seen["console"] if "allow-scripts" not in line] == []
    assert "owned" in results["replay"]["mistakes"][0]["request"]
    assert seen["title"] == ["Speculative tool actions: preset tiny"] * 2
    assert len(seen["searched"]) == 1
    assert results["replay"]["mistakes"][0]["request"] in seen["searched"][0]


def test_mistakes_are_paged_and_filtered(seen, results):
    rows = results["replay"]["mistakes"]
    assert [len(seen[which]) for which in ("first", "second")] == [20, 20]
    assert rows[0]["step_id"] in seen["first"][0]
    assert rows[20]["step_id"] in seen["second"][0]
    assert len(seen["rejected"]) == sum(row["kind"] == "rejected_right" for row in rows)
    assert all("rejected, acceptable" in text for text in seen["rejected"])


def test_phone_is_not_scrolled_sideways(seen):
    (live, inner), (dead, narrower) = seen["widths"]
    assert live <= inner <= 390
    assert dead <= narrower <= 360


def test_without_scripts_the_tables_and_mistakes_are_there_and_no_dead_controls(seen, results):
    assert seen["dead"]["explorer"] is False
    assert seen["dead"]["controls"] is False
    assert seen["dead"]["tables"] > len(results["replay"]["curves"])
    assert seen["dead"]["mistakes"] == len(results["replay"]["mistakes"])


def test_every_control_has_a_name(seen):
    assert seen["unlabelled"] == []


def test_text_can_be_read_in_light_and_dark(seen, folder, tmp_path_factory):
    dark = look(folder, tmp_path_factory, DARK)
    assert (seen["dark"], dark["dark"]) == (False, True)
    assert seen["paper"] != dark["paper"]
    for page in (seen, dark):
        assert {name for name, ratio in page["contrast"].items() if ratio < 4.5} == set()
