from types import SimpleNamespace

import pytest

from specact_rl.envs.collect import plan_episodes
from specact_rl.errors import ConfigError
from specact_rl.mining.build_rollouts import collect_rollouts, read_rollouts
from specact_rl.mining.build_unpaired import build_kto, build_weighted
from specact_rl.mining.data_sets import DataSource
from specact_rl.rendering import check_parity
from specact_rl.store import open_stage, read_json, read_training_rows, write_table
from specact_rl.types import Score


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make):
    """Per step the reference twice, a lie, and text that cannot be parsed; a score of each."""
    root = tmp_path_factory.mktemp("tables")
    plans = plan_episodes(["noisy:0.4"], range(12))
    shares = {"train_verifier": 0.7, "calibration": 0.3}
    collect_rollouts(root / "rollouts", plans, fractions=shares)
    proposals = []
    for rollout in read_rollouts(root / "rollouts", ["train_verifier", "calibration"]):
        for step in rollout.each_step():
            offers = [(step.reference, True)] * 2 + [(make.say("Done: x"), False), ("oops", False)]
            proposals += [
                make.proposal(step, action, label, sample=i)
                for i, (action, label) in enumerate(offers)
            ]
    with open_stage(root / "proposals", "outcomes", inputs={}, arguments={}) as stage:
        write_table(stage.path / "proposals.parquet", proposals)
    for name, verifiers in [("scores", ["v"]), ("mixed", ["v", "w"])]:
        with open_stage(root / name, "scores", inputs={}, arguments={}) as stage:
            scores = [
                Score(
                    proposal_id=p.proposal_id,
                    verifier_id=verifiers[i % len(verifiers)],
                    log_odds=None if p.action is None else 0.5 + p.sample,
                    num_tokens=1,
                    num_cached_tokens=0,
                    seconds=0.0,
                )
                for i, p in enumerate(proposals)
            ]
            write_table(stage.path / "scores.parquet", scores)
    return SimpleNamespace(root=root, rollouts=root / "rollouts", proposals=root / "proposals")


@pytest.fixture
def source(folders, renderer, tmp_path):
    def make_source(name="out", proposals=True):
        return DataSource(
            rollouts_dir=folders.rollouts,
            proposals_dirs=[folders.proposals] if proposals else [],
            out_dir=tmp_path / name,
            renderer=renderer,
            split="train_verifier",
        )

    return make_source


def rows_of(folder):
    return read_training_rows(folder, "train")


def test_kto_rows_are_right_and_wrong_ones_with_the_tokens_of_inference(source, renderer, tmp_path):
    manifest = build_kto(source())
    rows = rows_of(tmp_path / "out")
    check_parity(rows, renderer)
    assert {row["split"] for row in rows} == {"train_verifier"}
    right = [row for row in rows if row["label"]]
    wrong = [row for row in rows if not row["label"]]
    assert len(wrong) == 2 * len(right) > 20
    assert sum(row["action_type"] == "unparsable" for row in wrong) == len(right)
    assert {row["num_samples"] for row in right} >= {2}
    assert manifest.dropped["duplicate"] >= len(right)
    report = read_json(tmp_path / "out" / "report.json")
    assert report["labels"] == {"m": {"right": len(right), "wrong": len(wrong)}}
    assert f"{len(right):,} rows are right and" in (tmp_path / "out" / "README.md").read_text()


def test_unparsable_text_is_left_out_on_demand(source, tmp_path):
    manifest = build_kto(source(), allow_unparsable=False)
    rows = rows_of(tmp_path / "out")
    assert "unparsable" not in {row["action_type"] for row in rows}
    assert manifest.dropped["unparsable"] > 0


def test_an_action_that_is_right_once_and_wrong_once_is_no_kto_row_and_has_a_mean_reward(
    renderer, tmp_path, make
):
    done = make.call("read_file", file="f1")
    rollouts = [
        make.rollout([(done, str(trial)), make.say("x")], success=trial == 0, trial=trial)
        for trial in range(4)
    ]
    with open_stage(tmp_path / "r", "import_rollouts", inputs={}, arguments={}) as stage:
        write_table(stage.path / "rollouts.parquet", rollouts)
    out = {
        "rollouts_dir": tmp_path / "r",
        "renderer": renderer,
        "split": "train_verifier",
    }
    asked = {"judged_by": "outcome", "sources": ["executed"]}
    manifest = build_kto(DataSource(**out, out_dir=tmp_path / "kto"), **asked)
    assert manifest.dropped["contradictory_value"] == 1
    assert [row["label"] for row in rows_of(tmp_path / "kto")] == [True, False, False, False]
    build_weighted(DataSource(**out, out_dir=tmp_path / "weighted"), **asked)
    rows = rows_of(tmp_path / "weighted")
    assert [(row["reward"], row["num_samples"]) for row in rows] == [
        (0.25, 4),
        (1.0, 1),
        (0.0, 1),
        (0.0, 1),
        (0.0, 1),
    ]
    report = read_json(tmp_path / "weighted" / "report.json")
    assert (report["num_prompts"], report["num_prompts_with_several_rewards"]) == (5, 0)


def test_rewards_are_those_of_a_scores_table(source, folders, tmp_path):
    manifest = build_weighted(source(), judged_by="score", scores_dir=folders.root / "scores")
    rows = rows_of(tmp_path / "out")
    # the reference was sampled twice, for 0.5 and 1.5
    assert {(row["reward"], row["num_samples"]) for row in rows} >= {(1.0, 2), (2.5, 1)}
    assert manifest.dropped["unknown_value"] > 0
    report = read_json(tmp_path / "out" / "report.json")
    assert report["num_prompts"] == report["num_prompts_with_several_rewards"] > 10
    assert report["rewards"]["m"]["max"] == 2.5


@pytest.mark.parametrize(
    ("build", "arguments", "complaint"),
    [
        (build_kto, {"judged_by": "score"}, "does not say right or wrong"),
        (build_kto, {"judged_by": "outcome"}, "needs sources among"),
        (build_weighted, {"judged_by": "score"}, "go together"),
        (build_weighted, {"scores_dir": "scores"}, "go together"),
        (build_weighted, {"judged_by": "score", "scores_dir": "mixed"}, "scores of one verifier"),
        (build_weighted, {"judged_by": "score", "scores_dir": "proposals"}, "no scores.parquet"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(source, folders, build, arguments, complaint):
    if "scores_dir" in arguments:
        arguments = arguments | {"scores_dir": folders.root / arguments["scores_dir"]}
    with pytest.raises(ConfigError, match=complaint):
        build(source(), **arguments)


@pytest.mark.parametrize("build", [build_kto, build_weighted])
def test_proposals_that_are_asked_for_must_be_there(source, build):
    with pytest.raises(ConfigError, match=r"must have a folder with proposals\.parquet"):
        build(source(proposals=False))
