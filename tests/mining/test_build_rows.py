import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard

from specact_rl.envs.collect import plan_episodes
from specact_rl.errors import ConfigError
from specact_rl.mining.build_rollouts import collect_rollouts, read_rollouts
from specact_rl.mining.build_rows import (
    build_preferences,
    build_reward,
    build_sft,
    build_verifier,
)
from specact_rl.mining.data_sets import DataSource
from specact_rl.mining.replays import Replays
from specact_rl.rendering import check_parity
from specact_rl.store import open_stage, read_json, read_training_rows, write_table

SHARES = {"train_proposer": 0.35, "train_verifier": 0.45, "calibration": 0.2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make):
    """Rollouts of the workspace; a random, a right and an unparsable proposal a step."""
    root = tmp_path_factory.mktemp("tables")
    plans = plan_episodes(["expert", "noisy:0.4"], range(16))
    collect_rollouts(root / "rollouts", plans, fractions=SHARES)
    rollouts = read_rollouts(root / "rollouts", ["train_verifier", "calibration"])
    replays = Replays(rollouts)
    proposals = []
    for rollout in rollouts:
        for step in rollout.each_step():
            legal = replays.environment_at(step).legal_actions()
            for sample, action in enumerate([legal[0], step.reference]):
                label = replays.is_acceptable(step, action)
                proposals.append(make.proposal(step, action, label, sample=sample))
            text = "<tool_call> oops"
            proposals.append(make.proposal(step, text, False, sample=2))
    with open_stage(root / "proposals", "outcomes", inputs={}, arguments={}) as stage:
        write_table(stage.path / "proposals.parquet", proposals)
    return SimpleNamespace(
        rollouts=root / "rollouts", proposals=root / "proposals", num_proposals=len(proposals)
    )


@pytest.fixture
def source(folders, renderer, tmp_path):
    def make_source(name="out", split="train_verifier", proposals=True, **fields):
        return DataSource(
            rollouts_dir=folders.rollouts,
            proposals_dirs=[folders.proposals] if proposals else [],
            out_dir=tmp_path / name,
            renderer=renderer,
            split=split,
            **fields,
        )

    return make_source


def tasks(rows):
    return {row["task_id"] for row in rows}


def test_a_built_folder_loads_as_it_is_with_whole_tasks_in_eval(source, folders, tmp_path):
    manifest = build_sft(source(split="train_proposer", proposals=False, eval_fraction=0.3))
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {
        "train": manifest.counts["train"],
        "eval": manifest.counts["eval"],
    }
    assert not tasks(loaded["train"]) & tasks(loaded["eval"])
    wanted = tasks(
        {"task_id": r.task_id} for r in read_rollouts(folders.rollouts, ["train_proposer"])
    )
    assert tasks(loaded["train"]) | tasks(loaded["eval"]) == wanted


@pytest.mark.parametrize("build", [build_sft, build_verifier, build_preferences, build_reward])
def test_rows_read_back_with_the_tokens_of_inference(source, renderer, tmp_path, build):
    manifest = build(source())
    rows = read_training_rows(tmp_path / "out", "train")
    assert len(rows) == manifest.counts["train"] > 20
    check_parity(rows, renderer)
    assert {row["split"] for row in rows} == {"train_verifier"}


def test_proposals_of_other_splits_are_left_out_and_counted(source, folders):
    num_steps = sum(len(r.steps) for r in read_rollouts(folders.rollouts, ["train_verifier"]))
    manifest = build_verifier(source())
    assert manifest.dropped["proposal_of_other_split"] == folders.num_proposals - 3 * num_steps
    assert manifest.dropped["unparsable"] == num_steps


def test_balancing_touches_train_rows_only(source, tmp_path):
    natural = build_verifier(source("natural", eval_fraction=0.4))
    balanced = build_verifier(source("balanced", eval_fraction=0.4), balance="subsample")
    assert 2 * balanced.counts["train:acceptable"] == balanced.counts["train"]
    assert balanced.counts["train"] + balanced.dropped["balanced_away"] == natural.counts["train"]
    evals = [read_training_rows(tmp_path / name, "eval") for name in ("natural", "balanced")]
    assert evals[0] == evals[1] != []
    labels = read_json(tmp_path / "natural" / "report.json")["labels"]
    assert labels["test"]["num_unknown"] == 0


def test_precision_is_measured_where_the_environment_is_asked(source, tmp_path):
    build_preferences(
        source(), strategies=["divergence", "hard_negative", "same_prefix"], in_environment=True
    )
    report = read_json(tmp_path / "out" / "report.json")
    precision = report["precision"]
    assert precision["method"] == "cost_to_go"
    assert precision["hard_negative"]["better"]["value"] == 1.0
    assert precision["same_prefix"]["better"]["value"] == 1.0
    assert 0.0 < precision["divergence"]["better"]["value"] <= 1.0
    assert set(report["length_gaps"]) == {"divergence", "hard_negative", "same_prefix"}
    assert report["model_ids"] == ["m"]


def test_precision_can_be_measured_by_playing_on(source, tmp_path):
    build_preferences(
        source(),
        strategies=["same_prefix"],
        max_per_task=2,
        in_environment=True,
        precision_episodes=2,
    )
    precision = read_json(tmp_path / "out" / "report.json")["precision"]
    assert precision["method"] == "2 continuations a side"
    assert precision["same_prefix"]["better"]["value"] > 0.7


def test_a_reward_model_is_given_parsed_actions_only(source, tmp_path):
    preferences = build_preferences(source("dpo"), strategies=["same_prefix"], max_per_step=3)
    reward = build_reward(source("reward"), strategies=["same_prefix"], max_per_step=3)
    unparsable = preferences.counts["same_prefix:rejected_unparsable"]
    assert reward.dropped["unparsable_rejected"] == unparsable > 0
    assert reward.counts["train"] == preferences.counts["train"] - unparsable


def test_the_readme_says_that_pairs_are_not_matched_in_length(source, tmp_path):
    build_preferences(source(), strategies=["divergence", "same_prefix"])
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "not matched in length" in readme
    gap = read_json(tmp_path / "out" / "report.json")["length_gaps"]["same_prefix"]
    share = f"{100 * gap['share_chosen_longer']:.1f} % of {gap['num_pairs']}"
    assert f"`same_prefix`: chosen is the longer side in {share}" in readme


def test_matched_pairs_are_within_their_bounds_and_the_readme_says_so(source, tmp_path):
    every = build_preferences(source("every"), strategies=["same_prefix"])
    matched = build_preferences(source(), strategies=["same_prefix"], max_length_ratio=1.2)
    rows = read_training_rows(tmp_path / "out", "train")
    sides = [sorted((r["num_chosen_tokens"], r["num_rejected_tokens"])) for r in rows]
    assert 0 < len(sides) == every.counts["train"] - matched.dropped["length_not_matched"]
    assert all(longer <= 1.2 * shorter for shorter, longer in sides)
    assert matched.dropped["length_not_matched"] > 0
    assert "at most 1.2 times the tokens" in (tmp_path / "out" / "README.md").read_text()


def test_the_report_has_where_rollouts_part_and_the_readme_says_it(source, tmp_path):
    build_preferences(source(proposals=False), strategies=["divergence"])
    report = read_json(tmp_path / "out" / "report.json")
    places = report["partings"]
    # in the workspace two policies start alike, and nobody but they themselves can differ first
    assert places["action"] >= report["length_gaps"]["divergence"]["num_pairs"] > 0
    assert f"Of {sum(places.values())} pairs" in (tmp_path / "out" / "README.md").read_text()


def test_a_data_set_has_a_card_with_its_hashes_and_no_folder_of_this_machine(source, tmp_path):
    manifest = build_preferences(source(), strategies=["same_prefix"])
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert "build_preferences" in card.data.tags
    assert manifest.files["train.parquet"] in card.text
    assert all(each in card.text for each in manifest.inputs.values())
    assert f"| train | {manifest.counts['train']:,} |" in card.text
    assert manifest.dropped
    for reason, count in manifest.dropped.items():
        assert f"| left out: {reason} | {count:,} |" in card.text
    [settings] = re.findall(r"```yaml\n(.*?)```", card.text, re.S)
    assert yaml.safe_load(settings).items() >= manifest.arguments.items()
    assert str(tmp_path) not in card.content
    for heading in ("Intended use", "Limits", "Columns"):
        assert f"## {heading}" in card.text


def test_a_data_set_is_the_same_in_a_folder_of_another_name(source, tmp_path):
    first = build_preferences(source(), strategies=["same_prefix"])
    assert build_preferences(source("other"), strategies=["same_prefix"]).files == first.files


def test_the_readme_has_the_length_of_the_longest_row(source, tmp_path):
    # TRL's --max_length is 1024 by default, and what is longer is cut or left out without a word
    build_preferences(source(), strategies=["same_prefix"])
    rows = read_training_rows(tmp_path / "out", "train")
    longest = max(
        row["num_prompt_tokens"] + max(row["num_chosen_tokens"], row["num_rejected_tokens"])
        for row in rows
    )
    readme = (tmp_path / "out" / "README.md").read_text()
    assert f"The longest row has {longest:,} tokens" in readme


def test_trajectories_go_into_a_folder_of_their_own(source, tmp_path):
    with pytest.raises(ConfigError, match="a folder of its own"):
        build_preferences(source(), strategies=["outcome", "divergence"])
    with pytest.raises(ConfigError, match="scores one action"):
        build_reward(source(), strategies=["outcome"])
    manifest = build_preferences(source(), strategies=["outcome"])
    rows = read_training_rows(tmp_path / "out", "train")
    assert len(rows) == manifest.counts["outcome"] > 0
    assert max(len(row["chosen"]) for row in rows) > 1


@pytest.mark.parametrize(
    ("build", "options", "complaint"),
    [
        (build_preferences, {"strategies": ["same_prefixes"]}, "'same_prefixes'"),
        (build_preferences, {"strategies": []}, r"got \[\]"),
        (build_preferences, {"max_per_task": 0}, "max_per_task=0"),
        (build_verifier, {"balance": "subsample", "positive_fraction": 1.0}, r"in \(0, 1\)"),
    ],
)
def test_arguments_that_do_not_fit_are_a_users_error(source, tmp_path, build, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build(source(), **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("build", [build_verifier, build_preferences, build_reward])
def test_builders_that_need_proposals_say_so(source, build):
    with pytest.raises(ConfigError, match="must have proposals"):
        build(source(proposals=False))


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_calibration_and_test_are_never_trained_on(source, split):
    with pytest.raises(ConfigError, match=f"got '{split}'"):
        source(split=split)


def test_nothing_to_train_on_is_an_error_with_the_reasons(source):
    # there are no proposals on tasks of train_proposer
    with pytest.raises(ConfigError, match="no row to train on.*'proposal_of_other_split'"):
        build_verifier(source(split="train_proposer"))


def test_proposals_on_other_rollouts_are_refused(source, make, tmp_path):
    elsewhere = make.rollout([make.say("Hi")], task="moon")
    stray = make.proposal(elsewhere.step(0), make.say("Hi"), True)
    with open_stage(tmp_path / "stray", "outcomes", inputs={}, arguments={}) as stage:
        write_table(stage.path / "proposals.parquet", [stray])
    own = source()
    with pytest.raises(ConfigError, match="task 'moon' is not in it"):
        build_verifier(
            DataSource(
                rollouts_dir=own.rollouts_dir,
                proposals_dirs=[tmp_path / "stray"],
                out_dir=tmp_path / "out",
                renderer=own.renderer,
                split="train_verifier",
            )
        )


def test_a_proposals_folder_named_twice_is_refused(source, folders):
    twice = replace(source(), proposals_dirs=[folders.proposals, folders.proposals])
    with pytest.raises(ConfigError, match="name each folder once"):
        build_verifier(twice)


def test_the_same_build_is_skipped_and_another_template_is_another_build(source, renderer):
    first = build_sft(source())
    assert build_sft(source()) == first
    other = type(renderer)(tokenizer=renderer.tokenizer, catalogue="template")
    changed = DataSource(
        rollouts_dir=source().rollouts_dir,
        out_dir=source().out_dir,
        renderer=other,
        split="train_verifier",
    )
    with pytest.raises(ConfigError, match="from other inputs"):
        build_sft(changed)
