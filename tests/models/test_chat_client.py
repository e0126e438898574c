"""The client of model servers, against a local server that fails in every way we know of.

The last test asks a real one, `transformers serve`, what a loaded model proposes.
"""

import asyncio
import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from specact_rl import cli
from specact_rl.envs.collect import plan_episodes, scripted_rollouts
from specact_rl.errors import ConfigError, ServerError
from specact_rl.eval import outcomes
from specact_rl.eval.collect import collect_proposals
from specact_rl.metrics.cost import TokenPrice
from specact_rl.mining.build_rollouts import collect_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.models import server as server_module
from specact_rl.models.chat_client import ChatModel
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.policy.live import LiveSystem
from specact_rl.policy.systems import SYSTEMS
from specact_rl.store import read_manifest, read_table
from specact_rl.types import Proposal
from tests.fake_server import (
    body,
    call_answer,
    cut,
    echo_key,
    hang_up,
    slow,
    status,
    text_answer,
)

BASE = Path(__file__).resolve().parents[2] / "specact_rl" / "models" / "bases" / "1m"
KEY = "sk-not-for-logs-4711"
SAMPLING = Sampling(max_new_tokens=64)


@pytest.fixture
def model(server):
    return ChatModel(base_url=server.url, model_name="m", timeout=10.0, max_retries=2)


@pytest.fixture
def step(make):
    """After a call and its result."""
    return make.rollout([(make.call("find", query="f1"), "f1 is a file"), make.say("Done")]).step(1)


@pytest.fixture
def steps(make):
    rollouts = [make.rollout([make.say("Done")], task=f"t{i}", request=f"Do {i}") for i in range(9)]
    return [rollout.step(0) for rollout in rollouts]


def only(proposals):
    ((proposal,),) = proposals
    return proposal


# What goes out


def test_messages_go_out_as_the_protocol_has_them(model, server, step):
    model.propose([step], SAMPLING)
    (request,) = server.requests
    assert request["model"] == "m"
    assert (request["temperature"], request["max_tokens"]) == (0.0, 64)
    called, result = request["messages"][2:]
    (call,) = called["tool_calls"]
    assert call["function"] == {"name": "find", "arguments": '{"query": "f1"}'}
    assert result == {"role": "tool", "content": "f1 is a file", "tool_call_id": call["id"]}
    assert [tool["function"]["name"] for tool in request["tools"]] == [
        tool.name for tool in step.tools if tool.documented
    ]
    assert "logprobs" not in request
    assert "seed" not in request


def test_no_tools_are_no_empty_list(model, server, step):
    model.propose([replace(step, tools=[])], SAMPLING)
    assert "tools" not in server.requests[0]


def test_each_further_sample_is_a_request_with_a_seed_of_its_own(model, server, steps):
    proposed = model.propose(steps, replace(SAMPLING, num_samples=3, temperature=0.7, seed=5))
    assert [[p.sample for p in samples] for samples in proposed] == [[0, 1, 2]] * len(steps)
    assert [samples[0].step_id for samples in proposed] == [step.step_id for step in steps]
    drawn = [request for request in server.requests if request["temperature"] == 0.7]
    assert len({request["seed"] for request in drawn}) == len(drawn) == 2 * len(steps)
    greedy = [request for request in server.requests if request["temperature"] == 0.0]
    assert len(greedy) == len(steps)
    seeds = {request["seed"] for request in drawn}
    server.requests.clear()
    model.propose(steps, replace(SAMPLING, num_samples=2, temperature=0.7, seed=5))
    assert {r["seed"] for r in server.requests if "seed" in r} < seeds


def test_no_more_requests_are_under_way_than_asked_for(model, server, steps):
    meeting = threading.Barrier(3)  # never met by fewer than three

    def answer(body):
        meeting.wait(10)
        return text_answer()

    server.answer = answer
    replace(model, concurrency=3).propose(steps, SAMPLING)
    assert server.most_at_once == 3
    assert len(server.requests) == len(steps)


def test_samples_of_a_server_cannot_be_made_distinct(model, server, step):
    with pytest.raises(ConfigError, match="cannot be made distinct"):
        model.propose([step], replace(SAMPLING, num_samples=2, distinct=True))
    assert not server.requests


# What comes back


def test_call_becomes_an_action_and_the_text_beside_it_is_left_out(model, server, step):
    server.answer = lambda body: call_answer(("read_file", '{"file": "f1"}'))
    proposal = only(model.propose([step], SAMPLING))
    assert (proposal.action.tool, proposal.action.arguments) == ("read_file", {"file": "f1"})
    assert proposal.action.type == "file_read"
    assert proposal.text == (
        '<tool_call>\n{"name": "read_file", "arguments": {"file": "f1"}}\n</tool_call>'
    )
    assert (proposal.match_level, proposal.acceptable) == ("none", None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (call_answer(("fly", "{}")), "unknown tool 'fly'"),
        (call_answer(("read_file", '{"file": ')), "malformed JSON"),
        (call_answer(("read_file", "{}")), "missing required argument 'file'"),
        (call_answer(*[("read_file", '{"file": "f1"}')] * 2), "several calls"),
        (text_answer(""), "empty text"),
        (text_answer(None), "empty text"),
        (text_answer("Done: t", finish_reason="length"), "no stop token within the token limit"),
    ],
)
def test_what_is_no_action_says_why(model, server, step, answer, reason):
    server.answer = lambda body: answer
    proposal = only(model.propose([step], SAMPLING))
    assert proposal.action is None
    assert reason in proposal.parse_error
    assert proposal.finished == (answer["choices"][0]["finish_reason"] != "length")


def test_call_that_the_server_left_in_the_text_is_read_there(model, server, step):
    text = '<tool_call>\n{"name": "read_file", "arguments": {"file": "f2"}}\n</tool_call>'
    server.answer = lambda body: text_answer(text)
    assert only(model.propose([step], SAMPLING)).action.arguments == {"file": "f2"}


def test_tokens_and_price_are_what_the_usage_says(model, server, step):
    usage = {"prompt_tokens": 1000, "completion_tokens": 20}
    details = {"prompt_tokens_details": {"cached_tokens": 900}}
    server.answer = lambda body: text_answer() | {"usage": usage | details}
    price = TokenPrice(prompt=2.0, cached=0.5, completion=10.0)
    proposal = only(replace(model, price=price).propose([step], SAMPLING))
    assert proposal.num_prompt_tokens == 1000
    assert proposal.num_cached_tokens == 900
    assert proposal.num_completion_tokens == 20
    # 100 x 2 + 900 x 0.5 + 20 x 10 = 850 dollars per million
    assert proposal.price == pytest.approx(850e-6)
    assert proposal.seconds > 0


def test_tokens_that_no_usage_tells_are_unknown(model, server, step):
    server.answer = lambda body: text_answer() | {"usage": None}
    price = TokenPrice(prompt=2.0, cached=0.5, completion=10.0)
    proposal = only(replace(model, price=price).propose([step], SAMPLING))
    assert (proposal.num_prompt_tokens, proposal.num_completion_tokens) == (None, None)
    assert proposal.price is None


def test_log_probability_is_the_sum_over_the_tokens(model, server, step):
    logprobs = {"content": [{"token": "a", "logprob": -0.25}, {"token": "b", "logprob": -1.5}]}
    server.answer = lambda body: text_answer(logprobs=logprobs)
    assert only(model.propose([step], SAMPLING)).logprob is None
    proposal = only(replace(model, logprobs=True).propose([step], SAMPLING))
    assert proposal.logprob == -1.75
    assert server.requests[-1]["logprobs"] is True


@pytest.mark.parametrize("logprobs", [None, {"content": None}, {"content": []}])
def test_log_probabilities_that_do_not_come_are_an_error(model, server, step, logprobs):
    server.answer = lambda body: text_answer(logprobs=logprobs)
    with pytest.raises(ServerError, match="log-probabilities were asked for") as error:
        replace(model, logprobs=True).propose([step], SAMPLING)
    assert server.url in str(error.value)
    assert step.step_id in str(error.value)


# What goes wrong


@pytest.mark.parametrize(
    "fault",
    [
        status(429),
        status(500),
        status(503),
        slow,
        cut,
        hang_up,
        body('{"choices": [{"mess'),
        body("<html>busy</html>"),
        body('{"error": {"message": "upstream"}}'),
        body('{"choices": []}'),
        body('{"choices": [{"message": {}, "logprobs": {"content": [{"logprob": NaN}]}}]}'),
        body('{"choices": [{"message": {"tool_calls": [{"function": {"name": 1}}]}}]}'),
    ],
    ids="429 500 503 slow cut hang_up no_json html no_choices empty_choices nan wrong_call".split(),
)
def test_fault_that_passes_costs_a_retry_and_no_step(model, server, steps, fault, monkeypatch):
    monkeypatch.setattr("specact_rl.models.server._FIRST_WAIT", 0.01)
    server.faults = [fault]
    timeout = 1.0 if fault is slow else 10.0
    proposed = replace(model, timeout=timeout).propose(steps, SAMPLING)
    assert [only([each]).step_id for each in proposed] == [step.step_id for step in steps]
    assert {p.text for (p,) in proposed} == {"Done: t1"}
    assert len(server.requests) == len(steps) + 1
    assert len(set(server.answered)) == len(server.answered) == len(steps)


def test_server_is_left_alone_as_long_as_it_asks_for(model, server, step):
    server.faults = [status(429, {"retry-after": "1.5"})]
    model.propose([step], SAMPLING)
    first, second = server.times
    assert second - first >= 1.5  # by itself it waits half a second at most


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (status(429), "HTTP 429: no. So it was in up to 3 tries"),
        (status(500), "HTTP 500: no. So it was in up to 3 tries"),
        (hang_up, "no connection that lasts until the answer in up to 3 tries"),
        (body("{"), "must be a chat completion, got { (body: Invalid JSON"),
        (body('{"choices": []}'), "(choices: List should have at least 1 item"),
    ],
    ids=["429", "500", "hang_up", "no_json", "wrong_schema"],
)
def test_fault_that_stays_is_an_error_that_names_server_and_step(
    model, server, step, fault, complaint, monkeypatch
):
    monkeypatch.setattr("specact_rl.models.server._FIRST_WAIT", 0.01)
    server.faults = [fault] * 3
    with pytest.raises(ServerError) as error:
        model.propose([step], SAMPLING)
    assert complaint in str(error.value)
    assert str(error.value).startswith(f"{server.url}, model 'm', step {step.step_id!r}: ")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("code", "advice"),
    [(400, "see what it says"), (401, "OPENAI_API_KEY"), (404, "usually ends in /v1")],
)
def test_request_that_is_refused_is_not_repeated(model, server, step, code, advice):
    server.faults = [status(code)]
    with pytest.raises(ServerError, match=advice):
        model.propose([step], SAMPLING)
    assert len(server.requests) == 1


def test_server_that_is_not_there_is_an_error(step):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ServerError, match="Is the server up"):
        ChatModel(base_url=url, model_name="m", max_retries=0).propose([step], SAMPLING)


def test_server_that_never_answers_is_an_error(model, server, step):
    server.faults = [slow]
    with pytest.raises(ServerError, match="no answer within 0.2 s in up to 1 tries"):
        replace(model, timeout=0.2, max_retries=0).propose([step], SAMPLING)


def test_step_that_the_server_refuses_can_be_a_row(model, server, steps):
    server.answer = lambda body: text_answer()
    server.faults = [status(400, text="context length is 512")]
    proposed = [p for (p,) in replace(model, unanswered="unparsable").propose(steps, SAMPLING)]
    (refused,) = [p for p in proposed if p.action is None]
    assert refused.parse_error == "no answer: HTTP 400: context length is 512"
    assert (refused.num_prompt_tokens, refused.seconds, refused.text) == (None, None, "")


def test_server_without_the_right_key_is_no_row(model, server, steps):
    server.faults = [status(401)]
    with pytest.raises(ServerError, match="HTTP 401"):
        replace(model, unanswered="unparsable").propose(steps, SAMPLING)


def test_after_a_failure_nothing_more_is_begun(model, server, steps):
    server.faults = [status(400)]
    with pytest.raises(ServerError):
        replace(model, concurrency=1).propose(steps, SAMPLING)
    assert len(server.requests) == 1


# What was paid for is kept


def test_answers_are_kept_as_they_come_and_not_asked_for_again(model, server, steps, tmp_path):
    kept = replace(model, concurrency=2).keeping(tmp_path / "answers.jsonl")
    server.faults = [None] * 5 + [status(400)]
    with pytest.raises(ServerError, match="kept: the same again goes on from there"):
        kept.propose(steps, SAMPLING)
    assert 5 <= len(server.answered) <= 6  # one may have been under way
    proposed = kept.propose(steps, SAMPLING)
    assert [p.step_id for (p,) in proposed] == [step.step_id for step in steps]
    assert set(Counter(server.answered).values()) == {1}
    assert len(server.answered) == len(steps)


def test_equal_questions_are_asked_once(model, server, step):
    found = model.propose([step, replace(step, step_id="s2"), step], SAMPLING)
    assert [p.step_id for (p,) in found] == [step.step_id, "s2", step.step_id]
    assert len(server.answered) == 1


def fails_once(monkeypatch, name, error):
    """The function of `models.server` fails when it is first called."""
    sound = getattr(server_module, name)
    calls = iter([error])

    def failing(*args):
        if (now := next(calls, None)) is not None:
            raise now
        return sound(*args)

    monkeypatch.setattr(server_module, name, failing)


def test_answer_that_cannot_be_kept_is_one_error_and_the_others_are_kept(
    model, server, steps, tmp_path, monkeypatch
):
    kept = replace(model, concurrency=2).keeping(tmp_path / "answers.jsonl")
    fails_once(monkeypatch, "append_jsonl", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(ServerError, match=r"kept in .*answers\.jsonl: No space left"):
        kept.propose(steps, SAMPLING)
    assert len(server.answered) <= 2  # no other was begun
    again = kept.keeping(tmp_path / "answers.jsonl").propose(steps, SAMPLING)
    assert len(again) == len(steps)
    assert len(server.answered) == len(steps) + 1  # the one that was lost is asked for again


def test_disk_that_is_full_ends_the_command_with_one_line(
    server, rollouts, tmp_path, monkeypatch, capsys
):
    fails_once(monkeypatch, "append_jsonl", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    paths = ["--rollouts", rollouts, "--out", tmp_path / "p", "--splits", "train_verifier"]
    assert cli.main(["outcomes", *map(str, paths), "--model", f"{server.url}#m"]) == 2
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("refused", [0, 9])
def test_fault_of_ours_comes_with_its_own_traceback(model, server, steps, refused):
    server.faults = [status(400)] * refused
    requests = [
        server_module.Request(body=model._body(step, 0, SAMPLING), step_id=step.step_id)
        for step in steps
    ]

    def take(place, reply):
        raise reply if refused and place else ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug") as error:
        model.ask(requests, take)
    assert error.traceback[-1].name == "take"


@pytest.fixture
def rollouts(tmp_path):
    out = tmp_path / "rollouts"
    splits = {"train_proposer": 0.0, "train_verifier": 1.0, "calibration": 0.0, "test": 0.0}
    plans = plan_episodes(["expert"], range(6))
    collect_rollouts(out, plans, roll_out=scripted_rollouts, fractions=splits, seed=0)
    return out


def test_run_that_the_server_ended_goes_on_and_loses_and_doubles_nothing(
    model, server, rollouts, tmp_path, monkeypatch
):
    monkeypatch.setattr(outcomes, "CHUNK_ROLLOUTS", 2)
    server.answer = lambda body: text_answer(f"Answer {len(server.answered)}")
    sampling = replace(SAMPLING, num_samples=2)
    out = tmp_path / "proposals"

    def collect():
        asked = replace(model, concurrency=3)
        collect_proposals(rollouts, out, asked, ["train_verifier"], sampling=sampling)
        return read_table(out / PROPOSALS_FILE, Proposal)

    for served in (7, 20):  # in the first chunk, and in a later one
        server.faults = [None] * served + [status(500)] * 30
        with pytest.raises(ServerError):
            collect()
        assert not out.exists()
    server.faults = []
    table = collect()
    assert set(Counter(server.answered).values()) == {1}
    assert len(server.answered) == len(table) == 2 * read_manifest(out).counts["steps"] > 40
    assert len({p.proposal_id for p in table}) == len(table)
    assert len({p.text for p in table}) == len(table)  # every answer is in the table
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "proposals.parquet"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["proposals", "rollouts"]
    assert {p.label_source for p in table} == {"cost_to_go"}


def test_answers_survive_a_price_and_an_allowance_that_are_added_later(
    model, server, rollouts, tmp_path
):
    def collect(model):
        out = tmp_path / "proposals"
        collect_proposals(rollouts, out, model, ["train_verifier"], sampling=SAMPLING)
        return read_table(out / PROPOSALS_FILE, Proposal)

    model = replace(model, concurrency=1)
    server.faults = [None] * 5 + [status(400)]
    with pytest.raises(ServerError, match="--unanswered unparsable"):
        collect(model)
    server.faults = [status(400, text="too long")]
    price = TokenPrice(prompt=1.0, cached=1.0, completion=2.0)
    table = collect(replace(model, unanswered="unparsable", price=price))
    assert len(server.answered) == len(set(server.answered)) == len(table) - 1
    # 30 x 1 + 5 x 2 = 40 dollars per million, those before the price was named included
    prices = [p.price for p in table]
    assert prices[:5] == pytest.approx([40e-6] * 5)
    assert [p.price is None for p in table] == [p.parse_error is not None for p in table]
    assert read_manifest(tmp_path / "proposals").counts["unanswered"] == 1
    assert [path.name for path in tmp_path.iterdir()].count("proposals.answers") == 0


def test_answers_without_log_probabilities_do_not_do_where_they_are_asked_for(
    model, server, step, tmp_path
):
    kept = model.keeping(tmp_path / "answers.jsonl")
    kept.propose([step], SAMPLING)
    server.answer = lambda body: text_answer(logprobs={"content": [{"logprob": -1.0}]})
    for _ in range(2):
        assert only(replace(kept, logprobs=True).propose([step], SAMPLING)).logprob == -1.0
    assert len(server.requests) == 2


@pytest.mark.slow
def test_run_that_was_killed_asks_again_only_for_what_was_under_way(server, rollouts, tmp_path):
    all_under_way = threading.Barrier(3)  # both requests, and this test

    def answer(body):
        if len(server.answered) >= 11 and not server.released.is_set():
            all_under_way.wait(60)
            server.released.wait(60)  # after the client has gone
        return text_answer()

    server.answer = answer
    paths = ["--rollouts", rollouts, "--out", tmp_path / "p", "--splits", "train_verifier"]
    arguments = [*paths, "--model", server.url, "--model-name", "m", "--concurrency", 2]
    command = [sys.executable, "-m", "specact_rl.cli", "outcomes", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        all_under_way.wait(60)
    finally:
        process.kill()
        process.communicate()
    kept, lost = set(server.answered), server.requests[-2:]
    server.released.set()
    server.requests.clear()
    assert cli.main(command[3:]) == 0
    again = [json.dumps(request) for request in server.requests]
    assert len(set(again)) == len(again)
    assert kept.isdisjoint(again)
    assert {json.dumps(request) for request in lost} <= set(again)
    table = read_table(tmp_path / "p" / "proposals.parquet", Proposal)
    assert len({p.proposal_id for p in table}) == len(table) == len(kept) + len(again)


def test_manifest_says_that_nobody_compared_the_prompts(model, rollouts, tmp_path):
    collect_proposals(rollouts, tmp_path / "p", model, ["train_verifier"], sampling=SAMPLING)
    arguments = read_manifest(tmp_path / "p").arguments
    assert arguments["parity"] == "unverified"
    assert arguments["model_id"] == f"{model.base_url}#m"


def test_server_does_not_rank(model, rollouts, tmp_path):
    with pytest.raises(ConfigError, match="give a checkpoint"):
        collect_proposals(rollouts, tmp_path / "p", model, ["train_verifier"], sampling=None)


# The key


def everything_under(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return b"".join(path.read_bytes() for path in files)


def run_outcomes(server, rollouts, out, *extra):
    paths = ["--rollouts", rollouts, "--out", out, "--splits", "train_verifier"]
    arguments = ["--model", server.url, "--model-name", "m", "--max-retries", "0", *extra]
    return cli.main(["outcomes", *map(str, paths), *map(str, arguments)])


def test_key_reaches_the_server_and_nothing_else(
    server, rollouts, tmp_path, monkeypatch, capfd, caplog
):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    server.faults = [None] * 3 + [echo_key]
    extra = ["--api-key-env", "MY_KEY", "--concurrency", 1]
    assert run_outcomes(server, rollouts, tmp_path / "p", *extra) == 2
    assert KEY.encode() not in everything_under(tmp_path)
    assert run_outcomes(server, rollouts, tmp_path / "p", *extra) == 0
    assert set(server.keys) == {f"Bearer {KEY}"}
    shown = capfd.readouterr()
    assert "wrong key Bearer ***" in shown.err
    assert "environment variable MY_KEY" in shown.err
    assert KEY not in shown.err + shown.out + caplog.text
    assert KEY.encode() not in everything_under(tmp_path)


def test_key_is_not_part_of_the_model_nor_of_a_traceback(model, server, step, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.faults = [echo_key]
    with pytest.raises(ServerError) as error:
        model.propose([step], SAMPLING)
    traced = "".join(traceback.format_exception(error.value))
    assert "HTTP 401: wrong key Bearer ***" in traced
    for shown in (repr(model), model.model_id, str(model.origin), traced):
        assert KEY not in shown


def test_key_that_is_none_is_not_shown(model, step, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nsecond line")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as error:
        model.propose([step], SAMPLING)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{KEY}@localhost/v1",
        f"https://{KEY}@localhost/v1",
        f"http://localhost/v1?key={KEY}",
        f"http://me:{KEY}@localhost:port/v1",
    ],
)
def test_url_with_a_secret_is_refused_without_showing_it(url, rollouts, tmp_path, capsys):
    arguments = ["--model", url, "--model-name", "m", "--out", str(tmp_path / "p")]
    splits = ["--splits", "train_verifier"]
    assert cli.main(["outcomes", "--rollouts", str(rollouts), *splits, *arguments]) == 2
    shown = capsys.readouterr()
    assert KEY not in shown.err + shown.out
    assert not (tmp_path / "p").exists()


# The command


def test_outcomes_of_a_server_have_tokens_and_a_price(server, rollouts, tmp_path, capsys):
    extra = ["--num-samples", 2, "--price-per-million", "0.5,1.5"]
    assert run_outcomes(server, rollouts, tmp_path / "p", *extra) == 0
    table = read_table(tmp_path / "p" / "proposals.parquet", Proposal)
    assert {(p.num_prompt_tokens, p.num_completion_tokens) for p in table} == {(30, 5)}
    # 30 x 0.5 + 5 x 1.5 = 22.5 dollars per million
    assert {round(p.price * 1e6, 6) for p in table} == {22.5}
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'p'}\n"
    assert f"{len(table)} of {len(table)} proposals cost $0.00" in shown.err
    assert {request["max_tokens"] for request in server.requests} == {1024}


@pytest.mark.parametrize(
    ("model", "extra", "complaint"),
    [
        ("http://127.0.0.1:9/v1", [], "asked for a model by name"),
        ("http://127.0.0.1:9/v1", ["--model-name", "m", "--concurrency", "0"], "at least 1"),
        ("http://127.0.0.1:9/v1#m", ["--model-name", "m"], "must be named once"),
        ("http://127.0.0.1:9/v1#", [], "asked for a model by name"),
        (
            "http://127.0.0.1:9/v1",
            ["--model-name", "m", "--price-per-million", "1"],
            "--price-per-million must be two or three prices",
        ),
        (str(BASE), ["--model-name", "m"], "--model-name is for a server"),
        (str(BASE), ["--logprobs"], "--logprobs is for a server"),
    ],
)
def test_what_does_not_fit_is_refused(model, extra, complaint, rollouts, tmp_path, capsys):
    arguments = ["--rollouts", str(rollouts), "--splits", "train_verifier"]
    arguments += ["--model", model, "--out", str(tmp_path / "p"), *extra]
    assert cli.main(["outcomes", *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_package_that_is_not_installed_is_named(model, step, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'specact_rl\[server\]'"):
        model.propose([step], SAMPLING)


def test_server_can_be_asked_where_a_loop_is_running(model, step):
    async def cell():
        return model.propose([step], SAMPLING)

    assert only(asyncio.run(cell())).text == "Done: t1"


# A real server


@pytest.fixture(scope="module")
def loaded():
    return LanguageModel.load(BASE)


def as_served(step, renderer):
    """With the catalogue in the system message, as the base knows it, and not in the request."""
    tools = [replace(tool, documented=False) for tool in step.tools]
    return replace(step, history=renderer.messages_for(step), tools=tools)


def test_transformers_serve_proposes_what_the_loaded_model_does(served, loaded):
    url, folder = served
    rollouts = scripted_rollouts(plan_episodes(["expert"], range(4)), None)
    steps = [step for rollout in rollouts for step in rollout.each_step()]
    sampling = Sampling(max_new_tokens=40)
    own = [p for (p,) in loaded.propose(steps, sampling)]
    model = ChatModel(base_url=url, model_name=str(folder), max_retries=0, concurrency=2)
    answers = [
        p for (p,) in model.propose([as_served(s, loaded.renderer) for s in steps], sampling)
    ]
    assert {p.action is None or p.action.tool is None for p in own} == {True, False}
    for answer, proposal in zip(answers, own, strict=True):
        assert answer.text == proposal.text
        assert answer.action == proposal.action
        assert answer.num_prompt_tokens == proposal.num_prompt_tokens
        assert answer.num_completion_tokens == proposal.num_completion_tokens


def test_transformers_serve_is_fallen_back_on_as_the_loaded_model_is(served, loaded, make):
    url, folder = served
    step = as_served(make.rollout([make.say("Done")]).step(0), loaded.renderer)
    model = ChatModel(base_url=url, model_name=str(folder), max_retries=0)
    sampling = Sampling(max_new_tokens=40)
    (decision,) = LiveSystem(system=SYSTEMS["A"], strong=model, sampling=sampling).decide_steps(
        [step]
    )
    ((own,),) = loaded.propose([make.rollout([make.say("Done")]).step(0)], sampling)
    assert (decision.action, decision.text) == (own.action, own.text)
    (call,) = decision.calls
    assert call.num_prompt_tokens == own.num_prompt_tokens
    assert call.new_tokens == (own.num_completion_tokens,)
    assert (call.size, call.price) == (None, None)


def test_transformers_serve_gives_no_log_probabilities_and_is_refused(served, loaded, make):
    url, folder = served
    step = as_served(make.rollout([make.say("Done")]).step(0), loaded.renderer)
    model = ChatModel(base_url=url, model_name=str(folder), max_retries=0, logprobs=True)
    with pytest.raises(ServerError, match="log-probabilities were asked for"):
        model.propose([step], SAMPLING)


def test_transformers_serve_refuses_another_model_by_name(served, make):
    url, _ = served
    model = ChatModel(base_url=url, model_name="other", max_retries=0)
    with pytest.raises(ServerError, match="HTTP 400.*requested 'other'"):
        model.propose([make.rollout([make.say("Done")]).step(0)], SAMPLING)
