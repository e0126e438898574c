"""A server as judge: what it is asked, what is made of its answers, and what goes wrong."""

import json
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from specact_rl import cli
from specact_rl.envs.collect import plan_episodes, scripted_rollouts
from specact_rl.errors import ConfigError, ServerError
from specact_rl.eval import outcomes
from specact_rl.eval.collect import collect_proposals, collect_scores
from specact_rl.eval.team import Team
from specact_rl.metrics.cost import TokenPrice
from specact_rl.mining.build_rollouts import collect_rollouts
from specact_rl.models.chat_client import ChatModel
from specact_rl.models.language_model import Sampling
from specact_rl.models.server import Likely
from specact_rl.store import read_manifest, read_table
from specact_rl.types import Action, Proposal, Score
from specact_rl.verifiers.base import items_of, scores_of
from specact_rl.verifiers.choice import choose_verifier
from specact_rl.verifiers.server_judge import ServerJudge, yes_less_no
from tests.fake_server import body, cut, hang_up, judge_answer, slow, status, text_answer

KEY = "sk-not-for-logs-4711"
YES = judge_answer(yes=-0.1, no=-2.6)


@pytest.fixture
def judge(server):
    server.answer = lambda body: YES
    return ServerJudge(base_url=server.url, model_name="j", timeout=10.0, max_retries=2)


@pytest.fixture
def make_items(rollouts, propose):
    """`make_items(action, ...)`: as many proposals at each of nine steps, without our prompts."""

    def made(*actions):
        rows = [
            propose(step, step.reference if action == "expert" else action, sample=k)
            for step in [s for rollout in rollouts for s in rollout.each_step()][:9]
            for k, action in enumerate(actions)
        ]
        return items_of(rollouts, rows, None)

    return made


DONE = Action(type="final_answer", text="Done: {t1} is ann's")


def test_question_holds_tools_history_and_proposal_and_nothing_later(judge, server, make_items):
    items = make_items(DONE)
    judge.judge(items)
    asked = {request["messages"][0]["content"]: request for request in server.requests}
    for item in items:
        own = [text for text in asked if json.dumps(item.step.history[-1]["content"]) in text]
        assert own
    text = next(t for t in asked if items[0].step.history[-1]["content"] in t)
    assert DONE.text in text
    documented = [tool.name for tool in items[0].step.tools if tool.documented]
    assert all(f'"name": "{name}"' in text for name in documented)
    assert asked[text] | {"messages": 0} == {
        "model": "j",
        "messages": 0,
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 20,
    }


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({"yes": -0.1, "no": -2.6}, 2.5),
        ({"no": -0.5, "yes": -1.5}, -1.0),
        # Both spellings of yes: log(0.3 + 0.2) - log(0.25).
        ({"Yes": np.log(0.3), "\u0120yes": np.log(0.2), "\u2581No": np.log(0.25)}, np.log(2.0)),
        ({"yes": -0.1, "maybe": -4.0, "well": -3.0}, 3.9),  # no is less likely than the least
        ({"no": -0.1, "maybe": -4.0}, -3.9),
        ({"no": np.log(0.8)}, np.log(0.2) - np.log(0.8)),  # nor than what is left for all others
        ({"yes": 0.0}, -np.log(1e-9)),
        ({"yes": 0.0, "no": -9999.0}, -np.log(1e-9)),  # which stands for minus infinity
        ({"no": -0.1, "maybe": -4.0, "well": -9999.0}, -3.9),
        ({"<think>": -0.1, "yesterday": -2.0, "not": -3.0}, None),
    ],
)
def test_log_odds_are_of_all_spellings_of_the_two_words(listed, expected):
    tokens = [Likely(token=token, logprob=logprob) for token, logprob in listed.items()]
    assert yes_less_no(tokens) == (expected if expected is None else pytest.approx(expected))


def test_equal_actions_are_asked_about_once_and_unparsable_ones_never(judge, server, make_items):
    judged = judge.judge(make_items(DONE, None, DONE, "expert"))
    assert len(server.requests) == 2 * 9
    assert np.isnan(judged.log_odds.reshape(9, 4)[:, 1]).all()
    np.testing.assert_allclose(judged.log_odds.reshape(9, 4)[:, [0, 2, 3]], 2.5)
    assert not judged.num_tokens.reshape(9, 4)[:, [1, 2]].any()


def test_tokens_price_and_seconds_are_those_of_each_answer(judge, server, make_items):
    usage = {"prompt_tokens": 1000, "completion_tokens": 1}
    usage["prompt_tokens_details"] = {"cached_tokens": 900}
    server.answer = lambda body: YES | {"usage": usage}
    judge = replace(judge, price=TokenPrice(prompt=2.0, cached=0.5, completion=10.0))
    items = make_items(DONE, DONE)
    judged = judge.judge(items)
    first, repeat = scores_of(judge, items, judged, seconds=99.0)[:2]
    assert (first.num_tokens, first.num_cached_tokens) == (101, 900)
    # 100 x 2 + 900 x 0.5 + 1 x 10 = 660 dollars per million
    assert first.price == pytest.approx(660e-6)
    assert 0.0 < first.seconds < 10.0
    assert (repeat.num_tokens, repeat.price, repeat.seconds) == (0, 0.0, 0.0)
    assert repeat.log_odds == first.log_odds


def test_price_that_nobody_named_is_not_known(judge, make_items):
    items = make_items(DONE)
    rows = scores_of(judge, items, judge.judge(items), seconds=1.0)
    assert {row.price for row in rows} == {None}
    assert judge.size is None


@pytest.mark.parametrize(
    "answer",
    [
        text_answer("yes"),
        text_answer("yes", logprobs={"content": []}),
        text_answer("yes", logprobs={"content": [{"token": "yes", "logprob": -0.1}]}),
    ],
)
def test_server_without_the_log_probabilities_is_refused_by_the_verifiers_name(
    judge, server, make_items, answer
):
    server.answer = lambda body: answer
    with pytest.raises(ServerError, match="needs the log-probabilities of yes and no") as error:
        judge.judge(make_items(DONE))
    assert f"the verifier {judge.verifier_id} needs" in str(error.value)
    assert server.url in str(error.value)


def test_server_that_counts_no_tokens_is_refused(judge, server, make_items):
    server.answer = lambda body: YES | {"usage": None}
    with pytest.raises(ServerError, match="part of what it costs"):
        judge.judge(make_items(DONE))


def test_one_answer_that_is_neither_word_has_no_score(judge, server, make_items, caplog):
    answers = iter([judge_answer(hm=-0.1, well=-2.0)] + [YES] * 8)
    server.answer = lambda body: next(answers)
    judged = replace(judge, concurrency=1).judge(make_items(DONE))
    assert np.isnan(judged.log_odds).tolist() == [True] + [False] * 8
    assert judged.num_tokens.all()  # it was paid for
    assert "1 of 9 answers begin with neither yes nor no, 'hm' first" in caplog.text


def test_model_that_thinks_first_is_refused(judge, server, make_items):
    server.answer = lambda body: judge_answer(**{"<think>": -0.1})
    with pytest.raises(ServerError, match="9 of 9 .* switch thinking off"):
        judge.judge(make_items(DONE))


def test_server_that_was_set_right_is_asked_again(judge, server, make_items, tmp_path):
    judge = judge.keeping(tmp_path / "answers.jsonl")
    server.answer = lambda body: judge_answer(**{"<think>": -0.1})
    with pytest.raises(ServerError, match="switch thinking off"):
        judge.judge(make_items(DONE))
    server.answer = lambda body: YES
    for again in (judge, judge.keeping(tmp_path / "answers.jsonl")):
        np.testing.assert_allclose(again.judge(make_items(DONE)).log_odds, 2.5)
    assert len(server.answered) == 9 + 9  # and what is of use is kept


FAULTS = {
    "429": status(429),
    "500": status(500),
    "slow": slow,
    "cut": cut,
    "hang_up": hang_up,
    "no_json": body('{"choices": [{"mess'),
    "wrong_schema": body('{"choices": [{"message": {}, "logprobs": {"content": "yes"}}]}'),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault_that_passes_costs_a_retry_and_no_item(judge, server, make_items, fault, monkeypatch):
    monkeypatch.setattr("specact_rl.models.server._FIRST_WAIT", 0.01)
    server.faults = [fault]
    judged = replace(judge, timeout=1.0 if fault is slow else 10.0).judge(make_items(DONE))
    np.testing.assert_allclose(judged.log_odds, 2.5)
    assert len(server.requests) == 9 + 1
    assert len(set(server.answered)) == len(server.answered) == 9


def test_refused_question_stops_the_run_or_has_no_score(judge, server, make_items):
    server.faults = [status(400, text="too long")]
    with pytest.raises(ServerError, match="HTTP 400: too long"):
        judge.judge(make_items(DONE))
    server.faults = [status(400, text="too long")]
    judged = replace(judge, unanswered="unparsable").judge(make_items(DONE))
    assert np.isnan(judged.log_odds).sum() == 1


@pytest.fixture
def tables(tmp_path, server, monkeypatch):
    """A rollouts folder, and a server's proposals at its steps."""
    monkeypatch.setattr(outcomes, "CHUNK_ROLLOUTS", 2)
    splits = {"train_proposer": 0.0, "train_verifier": 1.0, "calibration": 0.0, "test": 0.0}
    plans = plan_episodes(["expert"], range(5))
    collect_rollouts(
        tmp_path / "rollouts", plans, roll_out=scripted_rollouts, fractions=splits, seed=0
    )
    server.answer = lambda body: text_answer(f"Done: t{len(server.answered)}")
    collect_proposals(
        tmp_path / "rollouts",
        tmp_path / "proposals",
        ChatModel(base_url=server.url, model_name="m"),
        ["train_verifier"],
        sampling=Sampling(num_samples=2),
    )
    server.answered.clear()
    server.requests.clear()
    return tmp_path


def test_run_that_the_server_ended_goes_on_and_loses_and_doubles_nothing(judge, server, tables):
    server.answer = lambda body: judge_answer(yes=-0.01 * len(server.answered) - 0.01, no=-5.0)

    def collect():
        collect_scores(
            tables / "rollouts",
            tables / "proposals",
            tables / "scores",
            replace(judge, concurrency=3, price=TokenPrice(prompt=1.0, cached=1.0, completion=1.0)),
            None,
            ["train_verifier"],
        )

    for served in (7, 20):  # in the first chunk, and in a later one
        server.faults = [None] * served + [status(500)] * 30
        with pytest.raises(ServerError, match="kept: the same again goes on from there"):
            collect()
        assert not (tables / "scores").exists()
    server.faults = []
    collect()
    rows = read_table(tables / "scores" / "scores.parquet", Score)
    proposals = read_table(tables / "proposals" / "proposals.parquet", Proposal)
    assert [row.proposal_id for row in rows] == [p.proposal_id for p in proposals]
    assert set(Counter(server.answered).values()) == {1}
    assert len(server.answered) == len(rows) > 30
    assert len({row.log_odds for row in rows}) == len(rows)  # every answer is in the table
    assert {round(row.price * 1e6, 6) for row in rows} == {201.0}
    assert not (tables / "scores.answers").exists()
    assert read_manifest(tables / "scores").arguments["parity"] == "unverified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads(Team):
    """Threads in the place of processes; one that fails ends the others, as a launcher does."""

    meeting: threading.Barrier
    said: list

    def told_by_first(self, text):
        if self.leads:
            self.said[:] = [text]
        self.meeting.wait(20)
        (told,) = self.said
        self.meeting.wait(20)  # until all have read it
        return told


@pytest.mark.parametrize("then", [1, 2, 3])
def test_answers_that_one_process_kept_serve_others_after_a_restart(judge, server, tables, then):
    server.answer = lambda body: judge_answer(yes=-0.01 * len(server.answered) - 0.01, no=-5.0)

    def collect(size):
        meeting, said = threading.Barrier(size), []

        def work(rank):
            try:
                collect_scores(
                    tables / "rollouts",
                    tables / "proposals",
                    tables / "scores",
                    replace(judge, concurrency=2),
                    None,
                    ["train_verifier"],
                    team=Threads(rank=rank, size=size, meeting=meeting, said=said),
                )
            except ServerError:
                meeting.abort()
                raise

        with ThreadPoolExecutor(size) as pool:
            return [task.exception() for task in [pool.submit(work, r) for r in range(size)]]

    server.faults = [None] * 9 + [status(500)] * 30
    assert any(isinstance(error, ServerError) for error in collect(2))
    server.faults = []
    before = set(server.answered)
    assert collect(then) == [None] * then
    assert len(before) >= 9
    assert set(Counter(server.answered).values()) == {1}
    rows = read_table(tables / "scores" / "scores.parquet", Score)
    assert len({row.log_odds for row in rows}) == len(rows) == len(server.answered)


def test_outcomes_ask_proposer_and_judge_with_keys_and_prices_of_their_own(
    judge, server, tables, monkeypatch, capsys
):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server.answer = lambda body: YES if body["model"] == "j" else text_answer()
    server.keys.clear()
    arguments = ["--rollouts", tables / "rollouts", "--splits", "train_verifier"]
    arguments += ["--model", f"{server.url}#m", "--out", tables / "p", "--price-per-million", "1,2"]
    arguments += ["--verifier", f"{server.url}#j", "--scores", tables / "s"]
    arguments += ["--verifier-api-key-env", "JUDGE_KEY", "--verifier-price-per-million", "3,5"]
    assert cli.main(["outcomes", *map(str, arguments)]) == 0
    proposals = read_table(tables / "p" / "proposals.parquet", Proposal)
    scores = read_table(tables / "s" / "scores.parquet", Score)
    assert {round(p.price * 1e6) for p in proposals} == {30 * 1 + 5 * 2}
    assert {round(s.price * 1e6) for s in scores} == {200 * 3 + 1 * 5}
    sent = Counter((r["model"], key) for r, key in zip(server.requests, server.keys, strict=True))
    assert sent == {("m", "Bearer none"): len(proposals), ("j", f"Bearer {KEY}"): len(proposals)}
    shown = capsys.readouterr()
    files = b"".join(p.read_bytes() for p in tables.rglob("*") if p.is_file())
    assert KEY.encode() not in files
    assert KEY not in shown.out + shown.err
    assert f"{len(scores)} of {len(scores)} scores cost $" in shown.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--verifier", "trained", "--verifier-api-key-env", "X"], "--verifier-api-key-env is for"),
        (["--verifier", "http://127.0.0.1:9/v1"], "asked for a model by name"),
        (["--verifier", f"http://me:{KEY}@127.0.0.1/v1#j"], "no user, password or query"),
    ],
)
def test_judge_that_does_not_fit_is_refused(arguments, complaint, tables, capsys):
    base = ["--rollouts", tables / "rollouts", "--splits", "train_verifier", "--out", tables / "p"]
    base += ["--model", "http://127.0.0.1:9/v1#m", "--scores", tables / "s"]
    assert cli.main(["outcomes", *map(str, base), *arguments]) == 2
    shown = capsys.readouterr()
    assert complaint in shown.err
    assert KEY not in shown.err + shown.out
    assert not (tables / "p").exists()


def test_options_of_a_judge_that_is_not_there_are_refused(tables, capsys):
    paths = ["--rollouts", tables / "rollouts", "--splits", "train_verifier", "--out", tables / "p"]
    model = ["--model", "http://127.0.0.1:9/v1#m", "--verifier-price-per-million", "1,2"]
    assert cli.main(["outcomes", *map(str, paths), *model]) == 2
    assert "but there is no --verifier" in capsys.readouterr().err


def test_study_may_be_gated_by_a_server():
    choice = choose_verifier("http://localhost:8000/v1#Qwen/Qwen3-8B", seed=0)
    assert isinstance(choice.fitted, ServerJudge)
    assert choice.fitted.model_name == "Qwen/Qwen3-8B"
    assert choice.identity["verifier_id"] == choice.fitted.verifier_id
    with pytest.raises(ConfigError, match="by name"):
        choose_verifier("http://localhost:8000/v1", seed=0)


def test_transformers_serve_gives_no_log_probabilities_and_is_refused(served, make_items):
    url, folder = served
    judge = ServerJudge(base_url=url, model_name=str(folder), max_retries=0)
    # After so many words the base begins with one; elsewhere with a call, of which a single token
    # is no JSON, so that this server answers 500.
    (item, *_) = make_items(replace(DONE, text="read f1 " * 400))
    with pytest.raises(ServerError, match=r"the verifier judge-.* needs the log-probabilities"):
        judge.judge([item])


# What can be known before anything is judged


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (YES, None),
        (text_answer("yes"), "needs the log-probabilities"),
        (YES | {"usage": None}, "needs the tokens"),
        (judge_answer(**{"<think>": -0.1}), "begins with '<think>'.*switch thinking off"),
    ],
)
def test_one_question_tells_whether_a_model_can_judge(judge, server, make_items, answer, failure):
    server.answer = lambda body: answer
    found = judge.failure(make_items(DONE)[0].step)
    assert found is None if failure is None else re.search(failure, found)
    assert len(server.requests) == 1


def test_refused_question_is_no_judge_and_a_server_that_is_gone_an_error(judge, server, make_items):
    (item, *_) = make_items(DONE)
    server.faults = [status(400, text="no logprobs here")]
    assert "no logprobs here" in judge.failure(item.step)
    server.faults = [status(401)]
    with pytest.raises(ServerError, match="the server's key"):
        judge.failure(item.step)
