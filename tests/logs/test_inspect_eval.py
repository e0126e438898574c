import json
import struct
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from specact_rl.errors import RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.logs.groups import official_score
from specact_rl.logs.inspect_eval import verdict
from specact_rl.types import Action

import_inspect = IMPORTERS["inspect"]
HEADER = {"version": 2, "status": "success", "eval": {"task": "sums", "model": "mock/model"}}
TOOL = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
}
LONG = "What is 1 + 2? " * 20


def call(**arguments):
    made = {"id": "c1", "function": "add", "arguments": arguments, "type": "function"}
    return {
        "id": "m",
        "role": "assistant",
        "content": "",
        "tool_calls": [made],
        "source": "generate",
    }


def sample(**changes):
    default = {
        "id": "a",
        "epoch": 1,
        "input": "attachment://h1",
        "target": "SECRET",
        "metadata": {"key": "SECRET"},
        "messages": [
            {"id": "m0", "role": "user", "content": "attachment://h1", "source": "input"},
            call(x=0),
            {
                "role": "tool",
                "content": "",
                "tool_call_id": "c1",
                "function": "add",
                "error": {"type": "unknown", "message": "zero"},
            },
            call(x=1),
            {"role": "tool", "content": "3", "tool_call_id": "c1", "function": "add"},
            {
                "role": "assistant",
                "content": [
                    {"type": "reasoning", "reasoning": "hm"},
                    {"type": "text", "text": "It is 3."},
                ],
            },
        ],
        "scores": {"includes": {"value": "C", "answer": "3", "explanation": "SECRET"}},
        "events": [{"event": "state"}, {"event": "model", "tools": [TOOL], "input": []}],
        "model_usage": {"mock/model": {"input_tokens": 7, "output_tokens": 5}},
        "total_time": 1.5,
        "attachments": {"h1": LONG},
    }
    return {**default, **changes}


def write(path, *samples, header=HEADER, header_name="header.json"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/summaries/1.json", "[]")
        for row in samples:
            archive.writestr(f"samples/{row['id']}_epoch_{row['epoch']}.json", json.dumps(row))
        archive.writestr(header_name, json.dumps(header))
    return path


def write_zstandard(path, members):
    """A zip whose members are packed with method 93, which zipfile cannot write."""
    body, directory = b"", b""
    for name, value in members.items():
        data = json.dumps(value).encode()
        packed = pa.Codec("zstd").compress(data).to_pybytes()
        common = struct.pack(
            "<HHHHHIIIHH", 20, 0, 93, 0, 0x21, 0, len(packed), len(data), len(name), 0
        )
        directory += (
            b"PK\x01\x02"
            + struct.pack("<H", 20)
            + common
            + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
            + name.encode()
        )
        body += b"PK\x03\x04" + common + name.encode() + packed
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\x05\x06" + end)
    return path


def test_a_sample_is_a_rollout_with_its_long_texts_in_place(tmp_path):
    (rollout,) = import_inspect(write(tmp_path / "a.eval", sample())).rollouts
    assert rollout.messages[0] == {"role": "user", "content": LONG}
    assert [s.executed for s in rollout.steps] == [
        Action(type="tool_call", tool="add", arguments={"x": 0}),
        Action(type="repair", tool="add", arguments={"x": 1}),
        Action(type="final_answer", text="It is 3."),
    ]
    assert [(t.name, t.parameters) for t in rollout.tools] == [("add", TOOL["parameters"])]
    assert (rollout.policy, rollout.task_id, rollout.family, rollout.trial, rollout.success) == (
        "mock/model",
        "sums/a",
        "sums",
        0,
        True,
    )
    assert (rollout.info["output_tokens"], rollout.info["seconds"]) == (5, 1.5)


def test_target_and_metadata_are_nowhere(tmp_path):
    (rollout,) = import_inspect(write(tmp_path / "a.eval", sample())).rollouts
    assert "SECRET" not in json.dumps([rollout.messages, rollout.info])


def test_a_log_packed_with_zstandard_reads_the_same(tmp_path):
    members = {"header.json": HEADER, "samples/a_epoch_1.json": sample()}
    packed = import_inspect(write_zstandard(tmp_path / "z.eval", members))
    assert packed == import_inspect(write(tmp_path / "a.eval", sample()))


def test_a_log_without_a_header_yet_is_read_by_its_journal(tmp_path):
    path = write(tmp_path / "a.eval", sample(), header_name="_journal/start.json")
    assert import_inspect(path).rollouts[0].policy == "mock/model"


def test_epochs_are_trials_and_errors_no_failures(tmp_path):
    broken = sample(epoch=2, error={"message": "500"}, scores={"includes": {"value": "I"}})
    result = import_inspect(write(tmp_path / "a.eval", sample(), broken))
    assert [(r.trial, r.success, official_score(r)) for r in result.rollouts] == [
        (0, True, True),
        (1, None, False),
    ]
    assert [f.kind for f in result.flags] == ["sample_errors"]


def test_several_scorers_are_flagged_and_the_first_decides(tmp_path):
    scores = {"strict": {"value": "I"}, "lenient": {"value": "C"}}
    result = import_inspect(write(tmp_path / "a.eval", sample(scores=scores)))
    assert result.rollouts[0].success is False
    assert result.rollouts[0].info["scores"] == {"strict": "I", "lenient": "C"}
    assert [f.kind for f in result.flags] == ["several_scorers"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("C", True),
        ("I", False),
        ("P", None),
        ("N", None),
        (1.0, True),
        (0, False),
        (0.5, None),
        (True, True),
        ({"a": 1}, None),
        (None, None),
    ],
)
def test_a_verdict_is_right_wrong_or_unknown(value, expected):
    assert verdict(value) is expected


def test_samples_that_are_none_and_repeated_ones_are_counted(tmp_path):
    write(tmp_path / "a.eval", sample(), sample(id="b", messages=None))
    write(tmp_path / "b.eval", sample())
    result = import_inspect(tmp_path)
    assert len(result.rollouts) == 1
    assert result.dropped == {"malformed_sample": 1, "duplicate_id": 1}


def test_a_damaged_log_is_named(tmp_path):
    path = write(tmp_path / "a.eval", sample())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RolloutFormatError, match=r"a\.eval: must be a whole \.eval log"):
        import_inspect(path)
    with zipfile.ZipFile(tmp_path / "b.eval", "w") as archive:
        archive.writestr("other.json", "{}")
    with pytest.raises(RolloutFormatError, match=r"b\.eval: must hold header\.json"):
        import_inspect(tmp_path / "b.eval")


def make_log(folder):
    """Let inspect_ai's mock model answer two samples; needs no network where usage is given."""
    import inspect_ai
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate, use_tools
    from inspect_ai.tool import tool

    @tool
    def add():
        async def execute(x: int, y: int) -> str:
            """Adds two numbers.

            Args:
                x: The first.
                y: The second.
            """
            return str(x + y)

        return execute

    outputs = [ModelOutput.for_tool_call("mockllm/model", "add", {"x": 1, "y": 2})]
    outputs += [ModelOutput.from_content("mockllm/model", f"It is {i}.") for i in (3, 5)]
    for output in outputs:  # without it, inspect_ai fetches a tokenizer
        output.usage = ModelUsage(input_tokens=7, output_tokens=5, total_tokens=12)
    samples = [
        Sample(id="a", input="A sum, asked at length. " * 30 + "What is 1 + 2?", target="3"),
        Sample(id="b", input="What is 2 + 2?", target="4"),
    ]
    task = inspect_ai.Task(
        name="sums", dataset=samples, solver=[use_tools(add()), generate()], scorer=includes()
    )
    model = get_model("mockllm/model", custom_outputs=outputs)
    inspect_ai.eval(task, model=model, log_dir=str(folder), display="none", max_samples=1)
    return folder


@pytest.fixture(params=["kept", "made now"])
def real_log(request, tmp_path):
    """What `make_log` wrote with inspect_ai 0.3.285, and what the one installed here writes.

    It is no dependency of the tests: every release holds fsspec below the version that datasets
    is tested with here, and it brings 300 MB with it.
    """
    if request.param == "kept":
        return Path(__file__).with_name("inspect_ai_0_3_285.eval")
    pytest.importorskip("inspect_ai", reason="inspect_ai is not installed")
    return make_log(tmp_path)


def test_a_log_that_inspect_ai_wrote_is_read(real_log):
    result = import_inspect(real_log)
    assert (result.dropped, result.flags) == ({}, [])
    right, wrong = result.rollouts
    assert [r.success for r in (right, wrong)] == [True, False]
    assert [step.executed for step in right.steps] == [
        Action(type="tool_call", tool="add", arguments={"x": 1, "y": 2}),
        Action(type="final_answer", text="It is 3."),
    ]
    assert [m["role"] for m in right.messages] == ["user", "assistant", "tool", "assistant"]
    assert right.messages[0]["content"].count("A sum, asked at length.") == 30
    assert right.messages[2]["content"] == "3"
    (tool,) = right.tools
    assert (tool.name, list(tool.parameters["properties"])) == ("add", ["x", "y"])
    assert wrong.steps[0].executed == Action(type="final_answer", text="It is 5.")
    assert (right.task_id, right.policy, right.info["output_tokens"]) == (
        "sums/a",
        "mockllm/model",
        10,
    )
