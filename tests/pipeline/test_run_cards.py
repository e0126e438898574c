"""What a run measured, in the cards of its models."""

from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.run_cards import write_measured
from specact_rl.store.cards import CARD

ROLES = ("cheap", "strong", "cheap_dpo", "verifier", "reward_model")


def metric(value, low=None, high=None, note=None):
    return {"value": value, "low": low, "high": high, "n": 1619, "num_clusters": 301, "note": note}


def proposer(role, acceptable):
    levels = {name: metric(0.5, 0.4, 0.6) for name in ("parsed", "type", "tool", "arguments")}
    inside = levels | {"acceptable": acceptable}
    outside = dict.fromkeys(inside, metric(0.0, 0.0, 0.0))
    return {"role": role, "groups": {"in_family": inside, "out_of_family": outside}}


def judged(name, of, auroc):
    return {"name": name, "proposer": of, "auroc": auroc, "base_rate": metric(0.25, 0.2, 0.3)}


RESULTS = {
    "meta": {"preset": "tiny", "seed": 3, "label": "acceptable: one step nearer"},
    "replay": {
        "proposers": [
            proposer("cheap", metric(0.584, 0.557, 0.61)),
            proposer("strong", metric(0.725, 0.696, 0.751)),
            proposer("cheap_dpo", metric(None, note="no label")),
        ],
        "verifiers": [
            judged("classifier", "cheap", metric(0.93, 0.92, 0.94)),
            judged("reward_model", "cheap", metric(0.81, 0.8, 0.82)),
            judged("linear", "cheap", metric(0.77, 0.7, 0.8)),
            judged("classifier", "cheap_dpo", metric(0.91, 0.9, 0.92)),
        ],
    },
}


def cards(tmp_path):
    folders = Folders(root=tmp_path)
    for role in ROLES:
        folders.model(role).mkdir(parents=True)
        text = f"# {role}\n\n## How good it is\n\nNot known.\n\n## Limits\n\nMany.\n"
        (folders.model(role) / CARD).write_text(text)
    return folders


def test_each_model_has_its_own_metrics_with_intervals_and_n(tmp_path):
    folders = cards(tmp_path)
    write_measured(RESULTS, folders)
    text = {role: (folders.model(role) / CARD).read_text() for role in ROLES}
    assert "| acceptable | 0.584 | [0.557, 0.610] | 1,619 of 301 tasks |  |" in text["cheap"]
    assert "| acceptable | 0.725 | [0.696, 0.751] |" in text["strong"]
    assert "| acceptable | – | [–, –] | 1,619 of 301 tasks | no label |" in text["cheap_dpo"]
    assert "AUROC of the proposals of `cheap` | 0.930 | [0.920, 0.940]" in text["verifier"]
    assert "AUROC of the proposals of `cheap_dpo` | 0.910 |" in text["verifier"]
    assert "AUROC of the proposals of `cheap` | 0.810 |" in text["reward_model"]
    for role in ROLES:
        assert "0.770" not in text[role]
        assert "0.000" not in text[role]  # families that were held out
        assert "specact run --preset tiny --seed 3" in text[role]
        assert "Acceptable: one step nearer." in text[role]
        assert "Not known" not in text[role]
        assert text[role].endswith("\n\n## Limits\n\nMany.\n")


def test_a_report_that_is_written_again_changes_no_card(tmp_path):
    folders = cards(tmp_path)
    write_measured(RESULTS, folders)
    first = {role: (folders.model(role) / CARD).read_text() for role in ROLES}
    write_measured(RESULTS, folders)
    assert first == {role: (folders.model(role) / CARD).read_text() for role in ROLES}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != CARD]
