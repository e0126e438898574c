import json

import pytest

from specact_rl.envs.collect import plan_episodes
from specact_rl.errors import ConfigError
from specact_rl.mining.build_rollouts import (
    collect_rollouts,
    import_rollouts,
    parse_fractions,
    read_rollouts,
)
from specact_rl.store import open_stage, read_json, write_jsonl, write_table
from specact_rl.types import SPLITS


def test_collected_rollouts_are_split_and_held_out_families_go_to_test(tmp_path):
    plans = plan_episodes(["expert", "noisy:0.3"], range(12), held_out_seeds=range(4))
    manifest = collect_rollouts(tmp_path / "rollouts", plans)
    rollouts = read_rollouts(tmp_path / "rollouts")
    assert manifest.counts["rollouts"] == len(rollouts) == 32
    held_out = [r for r in rollouts if r.task_id.startswith("ws-h")]
    assert len(held_out) == 8
    assert {r.split for r in held_out} == {"test"}
    assert {r.info["out_of_family"] for r in held_out} == {True}
    assert len({r.split for r in rollouts}) > 1
    assert set(manifest.files) == {"rollouts.parquet", "report.json"}  # no shards left behind
    assert read_json(tmp_path / "rollouts" / "report.json")["leaks"]["num_tasks"]


def test_collecting_again_does_nothing_and_other_plans_are_refused(tmp_path):
    plans = plan_episodes(["expert"], range(3))
    first = collect_rollouts(tmp_path / "rollouts", plans)
    finished = []
    assert collect_rollouts(tmp_path / "rollouts", plans, progress=finished.append) == first
    assert finished == []
    with pytest.raises(ConfigError, match="from other inputs"):
        collect_rollouts(tmp_path / "rollouts", plan_episodes(["expert"], range(4)))


def test_a_log_of_our_own_format_reads_back_as_it_was_but_for_the_split(tmp_path, make):
    logged = [
        make.rollout([make.say("Done")], task=f"t{i}", request=f"Do {i}.", split=None)
        for i in range(6)
    ]
    write_jsonl(tmp_path / "log.jsonl", logged)
    manifest = import_rollouts(
        tmp_path / "log.jsonl", tmp_path / "rollouts", importer="native", fractions={"test": 1.0}
    )
    rollouts = read_rollouts(tmp_path / "rollouts")
    assert [r.split for r in rollouts] == ["test"] * 6
    assert [r.messages for r in rollouts] == [r.messages for r in logged]
    assert manifest.counts["test:tasks"] == 6
    assert read_rollouts(tmp_path / "rollouts", splits=["calibration"]) == []


def test_a_chat_log_is_imported_with_what_it_dropped(tmp_path):
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Do {i}."},
                {"role": "assistant", "content": "" if i == 0 else "Done"},
            ],
            "tools": [],
            "reward": 1.0,
        }
        for i in range(3)
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
    manifest = import_rollouts(tmp_path, tmp_path / "rollouts", importer="openai_chat")
    assert manifest.dropped == {"empty_message": 1}
    assert (manifest.counts["steps"], manifest.counts["successes"]) == (2, 3)
    assert set(manifest.inputs) == {"chats.jsonl"}


def test_fractions_that_are_no_distribution_are_a_users_error(tmp_path):
    with pytest.raises(ConfigError, match="sum to 1"):
        collect_rollouts(
            tmp_path / "rollouts", plan_episodes(["expert"], [0]), fractions={"test": 0.5}
        )


def test_fractions_are_read_from_text():
    assert parse_fractions("train_proposer=0.25, test=.75") == {
        "train_proposer": 0.25,
        "test": 0.75,
    }
    for text in ("train=1", "test", "test=much"):
        with pytest.raises(ConfigError, match=f"{SPLITS[0]}.*{text}"):
            parse_fractions(text)


def test_rollouts_without_a_split_are_refused(tmp_path, make):
    with open_stage(tmp_path / "raw", "other", inputs={}, arguments={}) as stage:
        write_table(stage.path / "rollouts.parquet", [make.rollout([make.say("Hi")], split=None)])
    with pytest.raises(ConfigError, match="must have a split"):
        read_rollouts(tmp_path / "raw")


def test_another_folder_is_no_rollouts_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        read_rollouts(tmp_path)
    with open_stage(tmp_path / "other", "other", inputs={}, arguments={}):
        pass
    with pytest.raises(ConfigError, match=r"no rollouts\.parquet"):
        read_rollouts(tmp_path / "other")
