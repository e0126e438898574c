import json
from pathlib import Path

import pytest

from specact_rl.errors import RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.types import Action, ToolSpec

FIXTURE = Path(__file__).parents[1] / "fixtures" / "logs" / "native.jsonl"
import_native = IMPORTERS["native"]


def test_rollouts_are_read_as_they_are_with_defaults_for_what_is_left_out():
    result = import_native(FIXTURE)
    first, second = result.rollouts
    assert result.dropped == {}
    assert first.tools == [ToolSpec(name="wave", effect="write")]
    assert first.steps[0].executed == Action(type="final_answer", text="Hello")
    assert (first.steps[0].acceptable, first.success, first.split) == (True, True, None)
    assert (second.success, second.info, second.steps) == (None, {}, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": 1}, r"steps\[0\]\.index must be 0, got 1"),
        ({"message_index": 3}, "between 0 and the number of messages, 2, got 3"),
        ({"message_index": -1}, "got -1"),
    ],
)
def test_a_step_outside_its_conversation_is_named_by_path_and_line(tmp_path, change, message):
    lines = FIXTURE.read_text().splitlines()
    row = json.loads(lines[0]) | {"rollout_id": "r3"}
    row["steps"][0] |= change
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, json.dumps(row)]))
    with pytest.raises(RolloutFormatError, match=rf"a\.jsonl:3: .*{message}"):
        import_native(tmp_path / "a.jsonl")


@pytest.mark.parametrize("side", ["executed", "reference"])
def test_a_call_of_a_tool_that_is_not_in_the_catalogue_is_named(tmp_path, side):
    lines = FIXTURE.read_text().splitlines()
    row = json.loads(lines[0]) | {"rollout_id": "r3"}
    row["steps"][0][side] = {"type": "tool_call", "tool": "wawe"}
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, json.dumps(row)]))
    message = rf"a\.jsonl:3: steps\[0\]\.{side}\.tool must be in .* \['wave'\], got 'wawe'"
    with pytest.raises(RolloutFormatError, match=message):
        import_native(tmp_path / "a.jsonl")


def test_a_rollout_without_a_catalogue_may_call_anything(tmp_path):
    row = json.loads(FIXTURE.read_text().splitlines()[0]) | {"tools": []}
    row["steps"][0]["executed"] = {"type": "tool_call", "tool": "wave"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    [rollout] = import_native(tmp_path / "a.jsonl").rollouts
    assert rollout.steps[0].executed.tool == "wave"


def test_a_repeated_rollout_is_named_with_its_first_place(tmp_path):
    (tmp_path / "a.jsonl").write_text(FIXTURE.read_text())
    (tmp_path / "b.jsonl").write_text(FIXTURE.read_text())
    with pytest.raises(RolloutFormatError, match=r"b\.jsonl:1: .*'r1' is also at .*a\.jsonl:1"):
        import_native(tmp_path)
