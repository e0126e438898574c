"""Runs whose cheap or strong model, or both, are behind a server on this machine."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3ForSequenceClassification

from specact_rl.actions.serialise import wire_messages
from specact_rl.cli import main
from specact_rl.envs.collect import scripted_rollouts
from specact_rl.errors import ConfigError, ServerError
from specact_rl.eval.results_schema import check_results, undocumented_keys
from specact_rl.metrics.cost import TokenPrice
from specact_rl.mining.chunks import PROPOSALS_FILE, SCORES_FILE
from specact_rl.pipeline import run as run_module
from specact_rl.pipeline.artifacts import finished_run
from specact_rl.pipeline.bases import adapted_preset
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.plan import plan_run
from specact_rl.pipeline.plan_page import plan_page
from specact_rl.pipeline.pretraining import base_sizes, with_own_bases
from specact_rl.pipeline.run import planned_episodes, run_preset
from specact_rl.pipeline.servers import Parts, Servers
from specact_rl.policy.systems import SYSTEMS
from specact_rl.presets import find_preset
from specact_rl.store import content_hash, read_json, read_manifest, read_table, write_json
from specact_rl.types import Proposal, Score
from tests.fake_server import ChatServer, call_answer, judge_answer, status, text_answer

NOWHERE = "http://127.0.0.1:9/v1"
PRICES = {"cheap": 1.0, "strong": 100.0}
"""Dollars a million tokens, of which an answer has 35, or 201 of the judge."""
RIGHT = {"cheap": 0.5, "strong": 0.8}
"""How often the server's models know what the expert does."""


def preset_of(url, *roles):
    bases = {f"{role}_base": f"{url}#{role}" for role in roles}
    return adapted_preset(find_preset("smoke"), num_tasks=16, **bases)


def priced(**options):
    return {
        role: {"price": TokenPrice(prompt=p, cached=p, completion=p)} | options.get(role, {})
        for role, p in PRICES.items()
    }


def expert_answers():
    """By the hash of the history as it is sent."""
    rollouts = scripted_rollouts(planned_episodes(preset_of(NOWHERE), 0))
    return {
        content_hash(wire_messages(step.history)): step.reference
        for rollout in rollouts
        for step in rollout.each_step()
        if step.reference is not None
    }


def serve(expert):
    """A server whose models do what the expert does now and then; who judges tosses a coin."""

    def answer(body):
        draw = int(content_hash(body), 16) / 16**16
        if "top_logprobs" in body:
            return judge_answer(yes=-2.0 * draw - 0.1, no=-2.0 * (1 - draw) - 0.1)
        action = expert.get(content_hash(body["messages"]))
        logprobs = {"logprobs": {"content": [{"logprob": -draw}]}} if "logprobs" in body else {}
        if action is None or draw > RIGHT[body["model"]]:
            return text_answer("Done: t1", **logprobs)
        if action.tool is None:
            return text_answer(action.text, **logprobs)
        called = call_answer((action.tool, json.dumps(action.arguments)))
        called["choices"][0] |= logprobs
        return called

    server = ChatServer()
    server.answer = answer
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def stand_in(trainings, **_):
    """Makes of bases what recipes make, but untrained."""
    for training in trainings:
        names = ("model_name_or_path", "output_dir")
        start, out = (Path(training.arguments[name]) for name in names)
        if out.exists():
            continue
        shutil.copytree(start, out)
        labels = {"train_verifier": 2, "train_reward_model": 1}.get(training.recipe)
        if labels is not None:
            torch.manual_seed(0)
            model = Qwen3ForSequenceClassification.from_pretrained(start, num_labels=labels)
            model.save_pretrained(out)
        log = {"recipe": training.recipe, "num_rows": 1, "log": [], "seconds": 0.0}
        write_json(out / "train_log.json", log | {"origin": {"rows_sha256": "0", "options": {}}})


def run(folder, url, *roles, **options):
    preset = preset_of(url, *roles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "launch", stand_in)
        patch.setattr("specact_rl.models.server._FIRST_WAIT", 0.01)
        return run_preset(
            preset,
            folder,
            seed=0,
            progress=lambda *_: nullcontext(lambda *_: None),
            command=["specact", "run"],
            servers=Servers.of(preset, priced(**options)),
        )


@pytest.fixture(scope="module")
def expert():
    return expert_answers()


@pytest.fixture
def chat(expert):
    found = serve(expert)
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(scope="module")
def finished(expert, tmp_path_factory):
    """A run of servers alone, which they ended in three of its stages."""
    folder, server, ended = tmp_path_factory.mktemp("servers") / "run", serve(expert), []
    for served in (5, 480, 70):
        server.faults = [None] * served + [status(400)] * 9
        with pytest.raises(ServerError, match="kept: the same again goes on from there"):
            run(folder, server.url, "cheap", "strong")
        ended.append(list(read_json(folder / "times.json"))[-1])
    server.faults = []
    results = run(folder, server.url, "cheap", "strong")
    server.shutdown()
    server.server_close()
    answered = [json.loads(text) for text in server.answered]
    return SimpleNamespace(
        folder=folder, results=results, answered=answered, ended=ended, url=server.url
    )


# A whole run


def test_run_that_servers_ended_goes_on_and_asks_for_nothing_twice(finished):
    assert finished.ended == ["cheap proposes", "verifiers judge", "live episodes"]
    assert set(Counter(map(content_hash, finished.answered)).values()) == {1}
    asked = Counter((b["model"], "top_logprobs" in b) for b in finished.answered)
    assert min(asked["cheap", False], asked["strong", False], asked["strong", True]) > 40


def test_what_is_behind_servers_is_not_trained_and_the_report_says_so(finished):
    models = {path.name for path in (finished.folder / "models").iterdir()}
    assert models == {"verifier", "reward_model"}
    names = [stage["name"] for stage in finished.results["meta"]["stages"]]
    assert [name for name in names if "train" in name] == ["train verifier and reward model"]
    assert {row["model"] for row in finished.results["training"]} == models
    page = (finished.folder / "report" / "report.md").read_text()
    assert f"The strong model is {finished.url}#strong as it is: not trained" in page
    assert "Left out B-dpo, D-dpo: a server's model cannot be trained" in page
    assert "prices are what servers are paid" in page
    assert "dollars per 1,000 tasks" in page


def test_all_systems_but_those_that_servers_cannot_have_are_evaluated(finished):
    expected = set(SYSTEMS) - {"B-dpo", "D-dpo", "D-logp", "D-lin+", "E-lin+"}
    assert {row["name"] for row in finished.results["replay"]["systems"]} == expected
    assert {row["name"] for row in finished.results["live"]} == expected
    assert finished.results["replay"]["ranking"] == []
    found = check_results(json.loads(json.dumps(finished.results)), "run")
    assert list(undocumented_keys(found)) == []


def test_each_system_is_charged_what_its_servers_were_paid(finished):
    cheap, strong, judge = (n * PRICES[r] / 1e6 for n, r in
                            ((35, "cheap"), (35, "strong"), (201, "strong")))  # fmt: skip
    rows = {row["name"]: row for row in finished.results["replay"]["systems"]}
    paid = {name: row["price_per_step"] for name, row in rows.items()}
    assert paid["A"] == pytest.approx(strong)
    assert paid["B"] == pytest.approx(cheap)
    assert paid["E-nf"] == pytest.approx(3 * cheap)
    rejected = 1.0 - rows["C"]["accept_rate"]["value"]
    assert paid["C"] == pytest.approx(cheap + judge + rejected * strong)
    assert {row["relative_flops"] for row in rows.values()} == {None}
    assert all(row["price_per_task"] > 0 for row in finished.results["live"])


def test_tables_hold_every_answer_of_the_servers(finished):
    folders = Folders(root=finished.folder)
    table = read_table(folders.proposals("cheap") / PROPOSALS_FILE, Proposal)
    assert {p.model_id for p in table} == {f"{finished.url}#cheap"}
    assert {p.logprob for p in table} == {None}
    assert read_manifest(folders.proposals("cheap")).arguments["parity"] == "unverified"
    scores = read_table(folders.scores("strong_judge", "cheap") / SCORES_FILE, Score)
    assert {round(s.price * 1e6) for s in scores if s.price} == {20100}


def test_finished_run_is_read_without_its_servers(finished):
    rows = finished.results["replay"]["systems"]
    assert set(finished_run(finished.folder).parts.systems) == {row["name"] for row in rows}


@pytest.mark.slow
def test_same_run_again_needs_no_server(finished):
    again = run(finished.folder, finished.url, "cheap", "strong")
    assert again["replay"]["systems"] == finished.results["replay"]["systems"]


def test_table_of_a_run_leaves_out_the_servers_judge(finished, tmp_path, caplog):
    out = tmp_path / "out"
    assert main(["evaluate", str(finished.folder), "--out", str(out), "--no-report"]) == 0
    found = read_json(out / "evaluation" / "results.json")
    names = {row["name"] for row in found["replay"]["systems"]}
    assert {"A", "B", "D", "E"} <= names
    assert "C" not in names
    assert "left out C" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("role", ["cheap", "strong"])
def test_other_model_may_be_one_of_this_machine(chat, tmp_path, role):
    results = run(tmp_path / "run", chat.url, role, cheap={"logprobs": True})
    rows = {row["name"]: row for row in results["replay"]["systems"]}
    [ranked] = results["replay"]["ranking"]
    missing = set(SYSTEMS) - set(rows)
    if role == "cheap":
        assert missing == {"B-dpo", "D-dpo"}
        assert ranked["role"] == "strong"
        assert rows["A"]["price_per_step"] == 0.0
        assert rows["A"]["mflops_per_step"] > 0.0
        assert rows["D-lin+"]["price_per_step"] > 0.0
    else:
        assert missing == set()
        assert ranked["role"] == "cheap"
        assert rows["B"]["price_per_step"] == 0.0
        rejected = 1.0 - rows["D"]["accept_rate"]["value"]
        assert rows["D"]["price_per_step"] == pytest.approx(rejected * 35 * PRICES["strong"] / 1e6)
    assert [row["price_per_task"] is None for row in results["live"] if row["name"] == "D"] == [
        False
    ]


@pytest.mark.slow
def test_command_that_is_killed_asks_for_nothing_twice(chat, tmp_path):
    out, log, sound = tmp_path / "run", tmp_path / "log.txt", chat.answer
    doomed, under_way = [], []

    def answer(body):
        if doomed and doomed[0].stage == list(read_json(out / "times.json"))[-1]:
            doomed[0].left -= 1
            if doomed[0].left == 0:
                doomed[0].process.kill()
                doomed.pop().process.wait()
                under_way.append(json.dumps(body))
        return sound(body)

    chat.answer = answer
    command = [sys.executable, "-m", "specact_rl.cli", "run", "--preset", "smoke"]
    command += ["--num-tasks", "16", "--out", str(out), "--concurrency", "1"]
    command += ["--strong-base", f"{chat.url}#strong", "--strong-price-per-million", "100,100"]
    command += ["--cheap-base", f"{chat.url}#cheap", "--logprobs"]
    stages = [("strong proposes", 20), ("verifiers judge", 20), ("live episodes", 1), (None, 0)]
    for stage, left in stages:
        with log.open("w") as stream:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream)
            doomed.append(SimpleNamespace(process=process, stage=stage, left=left))
            code = process.wait()
        assert code == (0 if stage is None else -signal.SIGKILL), log.read_text()[-2000:]
    assert len(under_way) == 3
    answered = Counter(chat.answered) - Counter(under_way)
    assert set(answered.values()) == {1}
    assert answered.keys() >= set(under_way)  # which were lost, and are there by now
    found = read_json(out / "evaluation" / "results.json")
    systems = {row["name"] for row in found["replay"]["systems"]}
    assert set(SYSTEMS) - systems == {"B-dpo", "D-dpo"}
    assert "--logprobs --strong-price-per-million 100,100" in found["meta"]["command"]


# Before anything is trained


def started(folder, url, *roles, **options):
    """As far as it comes before its first rollout."""

    class Stopped(Exception):
        pass

    def stop(*_, **__):
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "collect_rollouts", stop)
        with pytest.raises(Stopped):
            run(folder, url, *roles, **options)


def test_server_that_cannot_judge_leaves_out_c_and_is_asked_no_more(chat, tmp_path, caplog):
    caplog.set_level("INFO")
    chat.answer = lambda body: text_answer("yes")
    for _ in range(2):
        started(tmp_path / "run", chat.url, "strong")
    assert len(chat.answered) == 2  # how it acts, and how it judges
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Left out C:")]
    assert "needs the log-probabilities of yes and no" in told[0]
    assert "delete servers.json to ask again" in told[0]


def test_first_answers_serve_the_run(chat, tmp_path):
    started(tmp_path / "run", chat.url, "cheap", "strong")
    kept = {path.stem: path.read_text() for path in (tmp_path / "run" / "answers").iterdir()}
    assert set(kept) == {"cheap", "strong", "judge"}
    assert len(chat.answered) == 3


def test_log_probabilities_that_do_not_come_end_the_run_at_once(chat, tmp_path):
    chat.answer = lambda body: text_answer()
    with pytest.raises(ServerError, match="log-probabilities were asked for"):
        run(tmp_path / "run", chat.url, "cheap", cheap={"logprobs": True})
    assert not (tmp_path / "run" / "rollouts").exists()


def test_refusal_ends_the_run_at_once_whatever_is_allowed_later(chat, tmp_path):
    chat.faults = [status(400, text="no tools")]
    with pytest.raises(ServerError, match="no tools"):
        run(tmp_path / "run", chat.url, "cheap", cheap={"unanswered": "unparsable"})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cheap-base", f"{NOWHERE}#m", "--max-retries", "0"], "no connection"),
        (["--strong-base", NOWHERE], "asked for a model by name"),
        (["--verifier-base", f"{NOWHERE}#m"], "--verifier-base must be a checkpoint"),
        (["--logprobs"], "--logprobs is for a server, but the cheap model starts from"),
        (["--strong-price-per-million", "1,2"], "the strong model starts from 'builtin:1m'"),
        (["--timeout", "3"], "but no model of this run is behind one"),
    ],
)
def test_what_no_server_can_be_asked_with_is_refused_before_the_run(
    arguments, complaint, tmp_path, capsys
):
    command = ["run", "--preset", "smoke", "--out", str(tmp_path / "run"), *arguments]
    assert main(command) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run" / "rollouts").exists()


# What is left out


@pytest.mark.parametrize(
    ("roles", "logprobs", "fails", "left_out"),
    [
        ((), False, None, set()),
        (("strong",), False, None, set()),
        (("strong",), False, "no", {"C"}),
        (("cheap",), True, None, {"B-dpo", "D-dpo"}),
        (("cheap",), False, None, {"B-dpo", "D-dpo", "D-logp", "D-lin+", "E-lin+"}),
    ],
)
def test_systems_without_what_they_need_are_left_out_and_named(roles, logprobs, fails, left_out):
    options = {"cheap": {"logprobs": logprobs}}
    parts = Parts.of(Servers.of(preset_of(NOWHERE, *roles), options), fails)
    assert set(SYSTEMS) - set(parts.systems) == left_out
    named = [note.partition(":")[0] for note in parts.notes if note.startswith("Left out")]
    assert {n for names in named for n in names.removeprefix("Left out ").split(", ")} == left_out
    assert {s.verifier for s in parts.systems.values()} - {None} == {k for k, _ in parts.judged}


def test_run_from_scratch_pretrains_the_bases_of_other_roles(tmp_path):
    preset = preset_of(NOWHERE, "strong")
    assert base_sizes(preset) == ["1m"]
    own = with_own_bases(preset, Folders(root=tmp_path))
    assert own.strong_base == preset.strong_base
    assert own.cheap_base.startswith(str(tmp_path))


# The plan


def planned(*roles, **options):
    preset = preset_of(NOWHERE, *roles)
    servers = Servers.of(preset, priced(**options))
    return plan_run(preset, seed=0, device_memory=10**9, device_rate=1e9, servers=servers)


def test_plan_says_tokens_and_price_of_servers_and_no_memory():
    plan, local = planned("strong"), planned()
    of_strong = [stage for stage in plan.stages if stage.server_tokens is not None]
    assert [(stage.stage, stage.what) for stage in of_strong] == [
        ("strong proposes", "strong"),
        ("verifiers judge", "strong_judge on cheap"),
        ("live episodes", "strong"),
        ("live episodes", "strong_judge"),
    ]
    assert all(stage.memory is None and stage.flops is None for stage in of_strong)
    for stage in of_strong:
        assert stage.price == pytest.approx(sum(stage.server_tokens) * PRICES["strong"] / 1e6)
    assert plan.price == pytest.approx(sum(stage.price for stage in of_strong))
    proposes, judges = (stage for stage in local.stages if stage.stage == "strong proposes")
    assert (proposes.what, judges.what) == ("strong", "strong_judge on cheap")
    assert of_strong[0].rows == proposes.rows
    assert of_strong[0].tokens > proposes.tokens  # a server is paid for the prompt of every step
    trained = [stage.what for stage in plan.stages if stage.what.startswith("sft_proposer")]
    assert trained == ["sft_proposer: cheap"]
    page = plan_page(plan)
    assert f"price: {plan.price:,.2f} dollars" in page
    assert "The strong model is" in page


def test_plan_without_a_price_says_that_it_is_not_known():
    preset = preset_of(NOWHERE, "cheap", "strong")
    plan = plan_run(preset, seed=0, device_memory=10**9, device_rate=1e9)
    assert plan.price is None
    assert "price: not known" in plan_page(plan)
    assert not [stage for stage in plan.stages if "sft" in stage.what + stage.stage]
    assert plan.to_json()["notes"] == list(plan.notes)


def test_plan_of_a_run_of_servers_is_what_it_asked(finished):
    plan = planned("cheap", "strong")
    stages = {(stage.stage, stage.what): stage for stage in plan.stages}
    folders = Folders(root=finished.folder)
    for role in ("cheap", "strong"):
        rows = read_manifest(folders.proposals(role)).counts["proposals"]
        assert stages[f"{role} proposes", role].rows == rows
    names = {stage["name"] for stage in finished.results["meta"]["stages"]}
    assert {stage for stage, _ in stages} == names - {"ask servers", "evaluate"}


def test_verifier_behind_a_server_is_refused():
    with pytest.raises(ConfigError, match="trained, and need weights"):
        Servers.of(adapted_preset(find_preset("smoke"), verifier_base=f"{NOWHERE}#m"))
