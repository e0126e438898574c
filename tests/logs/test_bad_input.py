"""Whatever a file holds: a clear error, or rollouts and counts. Never another exception."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.errors import RolloutFormatError, SpecActError
from specact_rl.logs import IMPORTERS
from specact_rl.logs.importers import read_log
from specact_rl.logs.reading import json_rows, json_value
from specact_rl.store import write_jsonl

JSON_FILE_FORMATS = ("tau_bench", "swe_bench", "tinyagent", "hf_chat")
LINE_FORMATS = ("native", "openai_chat", "anthropic")
KEYS = (
    "messages tools role content type text tool_calls function name arguments task_id reward info "
    "traj trial simulations leaderboards results per_instance_details resolved question "
    "full_example query raw_output id"
).split()
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)
WORDS = st.sampled_from(
    ["user", "assistant", "tool", "text", "tool_use", "tool_result", "1. f(", '1. f("a")', "{", ""]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=25,
)
ROWS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8)


def check(importer, path, out):
    try:
        result = IMPORTERS[importer](path)
    except SpecActError:
        return
    write_jsonl(out, result.rollouts)


@pytest.mark.parametrize("importer", [*LINE_FORMATS, "tinyagent", "hf_chat"])
@settings(max_examples=25)
@given(rows=st.lists(ROWS, min_size=1, max_size=3))
def test_lines_of_any_json_are_refused_or_imported(tmp_path_factory, importer, rows):
    folder = tmp_path_factory.mktemp("log")
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    check(importer, folder / "a.jsonl", folder / "out")


@pytest.mark.parametrize("importer", JSON_FILE_FORMATS)
@settings(max_examples=25)
@given(value=VALUES | ROWS | st.lists(ROWS, max_size=3))
def test_a_file_of_any_json_is_refused_or_imported(tmp_path_factory, importer, value):
    folder = tmp_path_factory.mktemp("log")
    (folder / "a.json").write_text(json.dumps(value))
    check(importer, folder / "a.json", folder / "out")


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "ok"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]
CHAT = {"messages": TURNS, "tools": TOOLS, "id": "r", "task_id": "t", "model": "m", "trial": 0}
BLOCKS = [
    {"type": "text", "text": "x"},
    {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
]
RESULTS = [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "x"}]}]
TAU2_TURNS = [
    {"role": "user", "content": "Hi", "tool_calls": None},
    {"role": "assistant", "tool_calls": [{"id": "c", "name": "f", "arguments": {}}]},
    {"role": "tool", "tool_messages": [{"id": "c", "content": "ok", "requestor": "assistant"}]},
]
VALID = {
    "openai_chat": ("a.jsonl", {**CHAT, "success": True, "reward": 1.0}),
    "hf_chat": ("a.jsonl", CHAT),
    "anthropic": (
        "a.jsonl",
        {
            "system": "s",
            "tools": [{"name": "f", "description": "d", "input_schema": {}}],
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": BLOCKS},
                {"role": "user", "content": RESULTS},
            ],
        },
    ),
    "tau_bench": (
        "a.json",
        [{"task_id": 0, "trial": 0, "reward": 1.0, "info": {"user_cost": 1}, "traj": TURNS}],
    ),
    "tau2": (
        "a.json",
        {
            "info": {"agent_info": {"llm": "m"}, "environment_info": {"domain_name": "d"}},
            "simulations": [
                {"task_id": 0, "trial": 0, "reward_info": {"reward": 1}, "messages": TAU2_TURNS}
            ],
        },
    ),
    "swe_bench": (
        "a.json",
        {
            "leaderboards": [
                {
                    "results": [
                        {
                            "name": "m",
                            "resolved": 100.0,
                            "per_instance_details": {"a-1": {"resolved": True, "cost": 1}},
                        }
                    ]
                }
            ]
        },
    ),
    "eval_state": (
        "a.json",
        {"task_eval_progress": {"m": {"r": {"a-1": {"harness_result": True}}}}},
    ),
    "report": ("a.json", {"resolved_ids": ["a-1"], "error_ids": ["a-2"]}),
    "tinyagent": ("a.json", [{"question": "Q", "full_example": '1. f("a", $1)', "tools": []}]),
}
IMPORTER_OF = {"tau2": "tau_bench", "report": "swe_bench", "eval_state": "swe_bench"}
"""Where a name above is that of a form and not of its importer."""
JUNK = (None, True, -1, 0.5, "x", [], {}, [3], [[]], {"a": 1}, [{"a": 1}])


def mutations(value):
    """The value with each part of it, one at a time, replaced by each piece of junk or removed."""
    yield from JUNK
    if isinstance(value, dict):
        for key, item in value.items():
            yield {k: v for k, v in value.items() if k != key}
            for other in mutations(item):
                yield {**value, key: other}
    elif isinstance(value, list):
        for i, item in enumerate(value):
            for other in mutations(item):
                yield [*value[:i], other, *value[i + 1 :]]


@pytest.mark.parametrize("name", VALID)
def test_a_valid_log_with_one_part_replaced_is_refused_or_imported(tmp_path, name):
    importer = IMPORTER_OF.get(name, name)
    file, value = VALID[name]
    (tmp_path / file).write_text(json.dumps(value))
    assert IMPORTERS[importer](tmp_path / file).rollouts
    changed = list(mutations(value))
    assert len(changed) > 50
    for other in changed:
        (tmp_path / file).write_text(json.dumps(other))
        check(importer, tmp_path / file, tmp_path / "out")


BFCL_STEP = [
    {"role": "assistant", "content": [{"ls": "{}"}]},
    {"role": "handler_log", "content": "ok"},
    {"role": "tool", "content": "{}"},
]
BFCL = {
    "question/BFCL_v4_multi_turn_base.json": {
        "id": "multi_turn_base_0",
        "question": [[{"role": "user", "content": "Hi"}]],
        "involved_classes": ["GorillaFileSystem"],
        "initial_config": {},
    },
    "question/multi_turn_func_doc/gorilla_file_system.json": {
        "name": "ls",
        "description": "d",
        "parameters": {"type": "dict", "properties": {"a": {"type": "boolean"}}},
    },
    "result/m/multi_turn/BFCL_v4_multi_turn_base_result.json": {
        "id": "multi_turn_base_0",
        "result": [[[{"ls": "{}"}]]],
        "latency": [[0.5]],
        "inference_log": [
            [{"role": "state_info"}],
            {"begin_of_turn_query": [{"role": "user", "content": "Hi"}], "step_0": BFCL_STEP},
        ],
    },
    "score/m/multi_turn/BFCL_v4_multi_turn_base_score.json": {
        "accuracy": 1.0,
        "correct_count": 1,
        "total_count": 1,
    },
}


@pytest.mark.parametrize("file", BFCL)
def test_a_leaderboard_with_one_part_replaced_is_refused_or_imported(tmp_path, file):
    for name, value in BFCL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    assert IMPORTERS["bfcl"](tmp_path).rollouts[0].success is True
    for other in mutations(BFCL[file]):
        (tmp_path / file).write_text(json.dumps(other))
        check("bfcl", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "data",
    [
        b'{"messages": [',
        b'{"messages": "caf\xe9"}',
        b"\xff\xfe{\x00}\x00",
        b'{"x": NaN}',
        b'{"x": "\\ud800"}',
        b'{"x": -Infinity}',
        b'{"x": 1e999}',
        b"[" * 100_000,
        b"\x00",
        b"[1]",
    ],
)
def test_a_line_that_no_table_can_hold_is_named(tmp_path, data):
    (tmp_path / "a.jsonl").write_bytes(b'{"ok": 1}\n\n' + data)
    rows = json_rows(tmp_path / "a.jsonl")
    assert next(rows)[1] == {"ok": 1}
    with pytest.raises(RolloutFormatError, match=r"a\.jsonl:3: "):
        list(rows)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"x": "caf\xc3\xa9"}\n')
    assert [row for _, row in json_rows(tmp_path / "a.jsonl")] == [{"x": "café"}]
    assert json_value(tmp_path / "a.jsonl") == {"x": "café"}


def test_text_that_only_looks_like_no_json_is_read(tmp_path):
    row = {"x": "NaN Infinity \\ud800", "y": "\U0001f600"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert [r for _, r in json_rows(tmp_path / "a.jsonl")] == [row]
    assert json_value(tmp_path / "a.jsonl") == row


def huge():
    return "x" * (100 << 20)


def test_a_line_of_a_hundred_megabytes_is_a_row_like_any_other(tmp_path):
    lines = ['{"messages": [{"role": "user", "content": "', huge(), '"}], "tools": []}\n']
    (tmp_path / "a.jsonl").write_text("".join(lines) + '{"messages": [], "tools": []}')
    first, second = IMPORTERS["openai_chat"](tmp_path).rollouts
    assert (len(first.messages[0]["content"]), second.messages) == (100 << 20, [])


@pytest.mark.slow
def test_a_response_of_a_hundred_megabytes_is_read(tmp_path):
    tool = {"name": "f", "description": "d", "parameters": {"type": "dict", "properties": {}}}
    question = {"id": "simple_0", "question": "Q", "function": tool}
    summary = {"accuracy": 1.0, "correct_count": 1, "total_count": 1}
    stem = "gorilla_openfunctions_v1_test_simple"
    for name, text in {
        f"question/{stem}.json": json.dumps(question),
        f"result/m/{stem}_result.json": f'{{"id": "simple_0", "result": "[f(a=\'{huge()}\')]"}}',
        "score/m/simple_score.json": json.dumps(summary),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (rollout,) = IMPORTERS["bfcl"](tmp_path).rollouts
    assert (rollout.success, rollout.steps[0].executed) == (True, None)  # a runaway, not parsed


def whole_files(folder):
    """A readable file of each format: its importer, its name and its bytes."""
    for name, (file, value) in VALID.items():
        importer = IMPORTER_OF.get(name, name)
        yield name, importer, file, json.dumps(value).encode()
    yield "runs", "tinyagent", "a.jsonl", b'{"query": "Q", "raw_output": "1. f(\\"a\\")"}'
    (folder / "chat.jsonl").write_text(json.dumps(CHAT))
    write_jsonl(folder / "native.jsonl", IMPORTERS["openai_chat"](folder / "chat.jsonl").rollouts)
    yield "native", "native", "a.jsonl", (folder / "native.jsonl").read_bytes().strip()
    row = {"messages": json.dumps(TURNS), "tools": json.dumps(TOOLS)}
    pq.write_table(pa.Table.from_pylist([row]), folder / "a.parquet")
    yield "parquet", "hf_chat", "a.parquet", (folder / "a.parquet").read_bytes()
    log = Path(__file__).with_name("inspect_ai_0_3_285.eval")
    yield "inspect", "inspect", "a.eval", log.read_bytes()


def damaged(data):
    """What a disk, a killed run or an editor makes of a file, in words and as bytes."""
    yield "empty", b""
    yield "blank", b"\n\n \n"
    yield "zeros", bytes(len(data))
    yield "another encoding", data.decode("latin-1").encode("utf-16")
    yield "no records", b"[]"
    yield "no keys", b"{}"
    yield "no log", b"hello\nworld\n"
    yield from ((f"cut off at {i}/20", data[: len(data) * i // 20]) for i in range(1, 20))
    yield "its last byte cut off", data[:-1]


def refusal(path, importer):
    """What a reader is told; "" where nothing is. Any other error fails the test."""
    try:
        read_log(path, importer)
    except SpecActError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("by_name", [True, False], ids=["asked for", "sniffed"])
def test_no_damaged_file_is_read_as_nothing_or_ends_in_another_error(tmp_path, by_name):
    names = []
    for name, importer, file, data in whole_files(tmp_path):
        path = tmp_path / name / file
        path.parent.mkdir()
        path.write_bytes(data)
        asked = importer if by_name else None
        assert read_log(path, asked).result.rollouts
        for damage, broken in damaged(data):
            path.write_bytes(broken)
            assert file in refusal(path, asked), (name, damage)
        names.append(name)
    assert len(names) == len(VALID) + 4


@pytest.mark.parametrize("name", ["openai_chat", "hf_chat", "anthropic", "native"])
def test_one_line_in_another_encoding_is_named(tmp_path, name):
    _, importer, file, data = next(w for w in whole_files(tmp_path) if w[0] == name)
    # a later line of a UTF-8 file, as two tools appending to one file leave it
    other = data.replace(b'"r"', b'"caf\xe9"') if b'"r"' in data else data.replace(b"Hi", b"\xe9")
    assert other != data
    (tmp_path / file).write_bytes(data + b"\n" + other)
    with pytest.raises(RolloutFormatError, match=rf"{file}:2: "):
        IMPORTERS[importer](tmp_path / file)


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("openai_chat", False),
        ("native", False),
        ("hf_chat", True),
        ("tau_bench", True),
        ("tau2", True),
        ("report", True),
    ],
)
def test_an_id_that_comes_twice_is_refused_or_counted(tmp_path, name, counted):
    _, importer, file, data = next(w for w in whole_files(tmp_path) if w[0] == name)
    value = json.loads(data)
    if name == "tau_bench":
        twice = json.dumps(value * 2).encode()
    elif name == "tau2":
        twice = json.dumps(value | {"simulations": value["simulations"] * 2}).encode()
    elif name == "report":
        twice = json.dumps(value | {"unresolved_ids": value["resolved_ids"]}).encode()
    else:
        twice = data + b"\n" + data
    (tmp_path / name).mkdir()
    (tmp_path / name / file).write_bytes(twice)
    if counted:
        assert IMPORTERS[importer](tmp_path / name / file).dropped == {"duplicate_id": 1}
    else:
        with pytest.raises(RolloutFormatError, match=rf"{file}:2: .*must be unique"):
            IMPORTERS[importer](tmp_path / name / file)


def test_an_empty_file_among_others_is_named_and_not_passed_over(tmp_path):
    for importer in ("openai_chat", "native", "hf_chat"):
        _, _, file, data = next(w for w in whole_files(tmp_path) if w[0] == importer)
        folder = tmp_path / importer
        folder.mkdir()
        (folder / file).write_bytes(data)
        (folder / "b.jsonl").write_bytes(b"")
        with pytest.raises(RolloutFormatError, match=r"b\.jsonl: must hold at least one record"):
            IMPORTERS[importer](folder)
