"""`specact outcomes`: checkpoints propose and judge at the steps of a rollouts folder."""

import os
import runpy
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, Qwen3ForCausalLM

from specact_rl import cli
from specact_rl.envs.collect import plan_episodes, scripted_rollouts
from specact_rl.errors import ConfigError
from specact_rl.eval import collect
from specact_rl.eval import outcomes as outcomes_module
from specact_rl.mining.build_rollouts import collect_rollouts, import_rollouts
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.rendering import Renderer
from specact_rl.store import read_manifest, read_table, write_jsonl, write_table
from specact_rl.types import Action, Proposal, Score
from specact_rl.verifiers import ClassifierVerifier, SampleAgreement
from specact_rl.verifiers.models import StrongJudge
from tests.tiny_models import tiny_config

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "specact_rl" / "models" / "bases" / "1m"
ONE_SPLIT = {"train_proposer": 0.25, "train_verifier": 0.75, "calibration": 0.0, "test": 0.0}


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    out = tmp_path_factory.mktemp("inputs") / "rollouts"
    plans = plan_episodes(["expert"], range(4))
    collect_rollouts(out, plans, roll_out=scripted_rollouts, fractions=ONE_SPLIT, seed=0)
    return out


def outcomes(rollouts, out, *extra, model=BASE):
    splits = ["--splits", "train_verifier"]
    paths = ["--rollouts", rollouts, "--model", model, "--out", out]
    return cli.main(["outcomes", *map(str, paths), *splits, *map(str, extra)])


def build_verifier(rollouts, proposals, out, monkeypatch):
    program = ROOT / "data_builders" / "build_verifier.py"
    paths = ["--rollouts", rollouts, "--proposals", proposals, "--tokenizer", BASE, "--out", out]
    argv = [str(program), *map(str, paths), "--catalogue", "compact"]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(program), run_name="__main__")
    return read_manifest(out)


@pytest.fixture(scope="module")
def proposals(rollouts, tmp_path_factory):
    out = tmp_path_factory.mktemp("outcomes") / "proposals"
    assert outcomes(rollouts, out, "--num-samples", 2, "--seed", 3) == 0
    return out


def test_every_step_of_the_splits_is_proposed_at_and_labelled(rollouts, proposals):
    manifest = read_manifest(proposals)
    assert manifest.arguments["sampling"]["num_samples"] == 2
    assert manifest.seed == 3
    table = read_table(proposals / "proposals.parquet", Proposal)
    assert len(table) == 2 * manifest.counts["steps"] > 0
    assert {p.label_source for p in table} == {"cost_to_go"}
    assert sum(bool(p.acceptable) for p in table) > 0
    effective = [p.num_distinct for p in table if p.sample == 1]
    assert sum(effective) == manifest.counts["distinct"] > manifest.counts["steps"]


def test_verifier_rows_are_built_of_the_folder(rollouts, proposals, tmp_path, monkeypatch, capsys):
    manifest = build_verifier(rollouts, proposals, tmp_path / "rows", monkeypatch)
    assert manifest.counts["train"] > 0
    assert capsys.readouterr().out == f"{tmp_path / 'rows'}\n"


def test_the_same_command_again_finds_the_folder_done(rollouts, proposals, capsys):
    before = (proposals / "proposals.parquet").stat().st_mtime_ns
    assert outcomes(rollouts, proposals, "--num-samples", 2, "--seed", 3) == 0
    assert (proposals / "proposals.parquet").stat().st_mtime_ns == before
    assert capsys.readouterr().out == f"{proposals}\n"


def test_a_folder_of_other_things_is_replaced_only_when_asked_to(
    rollouts, proposals, tmp_path, capsys
):
    out = tmp_path / "proposals"
    shutil.copytree(proposals, out)
    assert outcomes(rollouts, out, "--max-new-tokens", 4) == 2
    assert "from other inputs" in capsys.readouterr().err
    assert read_manifest(out) == read_manifest(proposals)
    assert outcomes(rollouts, out, "--max-new-tokens", 4, "--overwrite") == 0
    assert read_manifest(out).arguments["sampling"]["max_new_tokens"] == 4


@pytest.mark.parametrize("num_labels", [1, 2], ids=["reward model", "verifier"])
def test_a_verifier_judges_what_was_proposed(
    rollouts, proposals, tmp_path, capsys, num_labels, save_verifier
):
    verifier = save_verifier(tmp_path / "judge", num_labels)
    assert AutoConfig.from_pretrained(verifier).num_labels == num_labels
    extra = ["--num-samples", 2, "--seed", 3, "--verifier", verifier, "--scores", tmp_path / "out"]
    assert outcomes(rollouts, proposals, *extra) == 0
    assert capsys.readouterr().out == f"{proposals}\n{tmp_path / 'out'}\n"
    table = read_table(proposals / "proposals.parquet", Proposal)
    scores = read_table(tmp_path / "out" / "scores.parquet", Score)
    assert [s.proposal_id for s in scores] == [p.proposal_id for p in table]
    assert [s.log_odds is None for s in scores] == [p.action is None for p in table]
    assert {s.verifier_id.rsplit("-", 1)[0] for s in scores} == {"judge"}


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--splits", "test"], "has no step in ['test']"),
        (["--temperature", "0"], "temperature above 0"),
        (["--temperature", "nan"], "temperature above 0"),
        (["--num-samples", "0"], "must be at least 1"),
        (["--scores", "s"], "must be given together"),
        (["--verifier", str(BASE)], "must be given together"),
        (["--verifier", str(BASE), "--scores", "s"], "must hold a verifier"),
    ],
)
def test_what_does_not_fit_is_refused(rollouts, tmp_path, capsys, extra, complaint):
    assert outcomes(rollouts, tmp_path / "out", *extra) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_verifier_does_not_propose(rollouts, tmp_path, capsys, save_verifier):
    verifier = save_verifier(tmp_path / "judge", 2)
    assert outcomes(rollouts, tmp_path / "out", model=verifier) == 2
    assert "Give the folder of a proposer" in capsys.readouterr().err


def test_rollouts_are_not_overwritten_by_what_is_proposed_on_them(rollouts, capsys):
    before = read_manifest(rollouts)
    assert outcomes(rollouts, rollouts, "--overwrite") == 2
    assert "folders of their own" in capsys.readouterr().err
    assert read_manifest(rollouts) == before


def under_foreign_ids(rollout, task_id, *, with_references):
    steps = rollout.steps
    if not with_references:
        steps = [replace(record, reference=None) for record in steps]
    return replace(rollout, task_id=task_id, rollout_id=f"{task_id}/log/0", steps=steps)


def test_foreign_rollouts_are_labelled_by_their_references_and_give_verifier_rows(
    tmp_path, monkeypatch
):
    # What the base proposes at an expert's step is often the expert's action: the same
    # conversations, under ids that no environment knows, and one of them without references.
    plans = plan_episodes(["expert"], range(4))
    foreign = [
        under_foreign_ids(rollout, f"foreign{i}", with_references=i > 0)
        for i, rollout in enumerate(scripted_rollouts(plans, None))
    ]
    write_jsonl(tmp_path / "log.jsonl", foreign)
    fractions = {**dict.fromkeys(ONE_SPLIT, 0.0), "train_verifier": 1.0}
    folder = tmp_path / "rollouts"
    import_rollouts(tmp_path / "log.jsonl", folder, importer="native", fractions=fractions)
    assert outcomes(folder, tmp_path / "proposals") == 0
    proposals = read_table(tmp_path / "proposals" / "proposals.parquet", Proposal)
    for p in proposals:
        if p.task_id == "foreign0":
            assert (p.acceptable, p.label_source) == (None, "none")
        else:
            matched = p.match_level == "arguments"
            assert (p.acceptable, p.label_source) == (matched, "reference_match")
        assert p.same_state is None
    assert {p.acceptable for p in proposals} == {True, False, None}
    manifest = build_verifier(folder, tmp_path / "proposals", tmp_path / "rows", monkeypatch)
    assert manifest.counts["train"] > manifest.counts["train:acceptable"] > 0


def table_of(folder):
    """The proposals, but for the seconds they took."""
    return [
        replace(p, seconds=0.0, tool_seconds=0.0)
        for p in read_table(folder / "proposals.parquet", Proposal)
    ]


def started(rollouts, out, *launcher, extra=()):
    """`specact outcomes` in processes of its own, one rollout to a shard."""
    code = (
        "import sys; from specact_rl import cli; from specact_rl.eval import outcomes; "
        "outcomes.CHUNK_ROLLOUTS = 1; sys.exit(cli.main(sys.argv[1:]))"
    )
    program = out.with_name(f"{out.name}.py")
    program.write_text(code)
    arguments = ["--rollouts", rollouts, "--model", BASE, "--out", out, *extra]
    return subprocess.Popen(
        [sys.executable, *launcher, program, "outcomes", *map(str, arguments)]
        + ["--splits", "train_verifier", "--num-samples", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow  # starts processes; tests of shards and teams are in test_outcomes
def test_nothing_is_lost_or_doubled_when_it_is_killed(rollouts, tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes_module, "CHUNK_ROLLOUTS", 1)
    assert outcomes(rollouts, tmp_path / "whole", "--num-samples", 2) == 0
    whole = table_of(tmp_path / "whole")
    shards = tmp_path / "killed.partial" / "shards"
    process = started(rollouts, tmp_path / "killed")
    while not list(shards.glob("part-*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in shards.glob("part-*.parquet")}
    seen = {}
    write = collect.write_table

    def spy(path, records):
        seen.update((p.name, p.stat().st_mtime_ns) for p in shards.glob("part-*.parquet"))
        return write(path, records)

    monkeypatch.setattr(collect, "write_table", spy)
    assert outcomes(rollouts, tmp_path / "killed", "--num-samples", 2) == 0
    assert table_of(tmp_path / "killed") == whole
    assert seen.items() >= kept.items()  # what was there was not made again
    assert len(seen) > len(kept)


@pytest.mark.slow  # starts processes; tests of shards and teams are in test_outcomes
def test_two_processes_make_the_tables_of_one(rollouts, tmp_path, monkeypatch, save_verifier):
    monkeypatch.setattr(outcomes_module, "CHUNK_ROLLOUTS", 1)
    verifier = save_verifier(tmp_path / "judge", 2)

    def judging(name):
        return "--verifier", verifier, "--scores", tmp_path / f"{name}-scores"

    def scores_of(name):
        table = read_table(tmp_path / f"{name}-scores" / "scores.parquet", Score)
        return [replace(score, seconds=0.0) for score in table]

    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = started(rollouts, tmp_path / "two", *launcher, extra=judging("two"))
    printed, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert outcomes(rollouts, tmp_path / "one", "--num-samples", 2, *judging("one")) == 0
    assert table_of(tmp_path / "two") == table_of(tmp_path / "one")
    assert scores_of("two") == scores_of("one")
    # One of them tells.
    assert printed.split() == [str(tmp_path / "two"), str(tmp_path / "two-scores")]


def test_a_second_run_finds_everything_in_the_cache(rollouts, tmp_path, monkeypatch, save_verifier):
    verifier = save_verifier(tmp_path / "verifier", 2)

    def run(name, *more):
        scores = tmp_path / f"{name}-scores"
        extra = ["--cache", tmp_path / "cache", "--verifier", verifier, "--scores", scores, *more]
        assert outcomes(rollouts, tmp_path / name, *extra) == 0
        proposals = read_table(tmp_path / name / "proposals.parquet", Proposal)
        return proposals, read_table(scores / "scores.parquet", Score)

    first = run("first")

    def refuse(*_):
        raise AssertionError("a model was run")

    with monkeypatch.context() as patch:
        patch.setattr(collect, "generated_proposals", refuse)
        patch.setattr(collect, "verifier_scores", refuse)
        assert run("second") == first  # seconds and all
        with pytest.raises(AssertionError, match="a model was run"):
            run("third", "--num-samples", "2")


def renderer_of(catalogue="compact"):
    return Renderer(tokenizer=AutoTokenizer.from_pretrained(BASE), catalogue=catalogue)


def random_lm(name="one", seed=0, dtype=torch.float32):
    renderer = renderer_of()
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(tiny_config(renderer.tokenizer, num_hidden_layers=1)).eval()
    return LanguageModel(model_id=name, model=model.to(dtype), renderer=renderer)


def proposed_by(lm, rollouts, out, **options):
    sampling = Sampling(max_new_tokens=3)
    collect.collect_proposals(rollouts, out, lm, ["train_verifier"], sampling=sampling, **options)
    return table_of(out)


@pytest.mark.parametrize(
    "other",
    [{"name": "other", "seed": 1}, {"dtype": torch.bfloat16}],
    ids=["another model", "the model in other numbers"],
)
def test_a_cache_gives_no_model_the_proposals_of_another(rollouts, tmp_path, other):
    cached = {"cache_dir": tmp_path / "cache"}
    first = proposed_by(random_lm(), rollouts, tmp_path / "first", **cached)
    lm = random_lm(**other)
    expected = proposed_by(lm, rollouts, tmp_path / "alone")
    assert [p.logprob for p in expected] != [p.logprob for p in first]
    assert proposed_by(lm, rollouts, tmp_path / "second", **cached) == expected


def test_a_cache_gives_no_version_of_the_code_the_rows_of_another(rollouts, tmp_path, monkeypatch):
    cached = {"cache_dir": tmp_path / "cache"}
    first = proposed_by(random_lm(), rollouts, tmp_path / "first", **cached)
    write = collect.generated_proposals

    def write_otherwise(*given):
        return [replace(p, text=f"{p.text}!") for p in write(*given)]

    monkeypatch.setattr(collect, "generated_proposals", write_otherwise)
    monkeypatch.setattr(collect, "source_hash", lambda: "of the code that writes otherwise")
    second = proposed_by(random_lm(), rollouts, tmp_path / "second", **cached)
    assert second == [replace(p, text=f"{p.text}!") for p in first]


def judged_by(verifier, rollouts, proposals, out, *, renderer=None, **options):
    collect.collect_scores(
        rollouts, proposals, out, verifier, renderer or renderer_of(), ["train_verifier"], **options
    )
    return read_table(out / "scores.parquet", Score)


@pytest.fixture(scope="module")
def written_otherwise(proposals, tmp_path_factory):
    """The proposals under the same ids, the two samples of each step exchanged."""
    folder = tmp_path_factory.mktemp("otherwise") / "proposals"
    shutil.copytree(proposals, folder)
    table = read_table(proposals / "proposals.parquet", Proposal)
    pairs = zip(table[::2], table[1::2], strict=True)
    exchanged = [
        replace(whose, text=other.text, action=other.action, parse_error=other.parse_error)
        for pair in pairs
        for whose, other in (pair, pair[::-1])
    ]
    write_table(folder / "proposals.parquet", exchanged)
    return folder


@pytest.mark.parametrize("changed", ["verifier", "template", "proposals"])
def test_a_cache_gives_no_scores_of_other_judging(
    rollouts, proposals, written_otherwise, tmp_path, save_verifier, changed
):
    verifier = ClassifierVerifier.load(save_verifier(tmp_path / "judge", 2))
    cached = {"cache_dir": tmp_path / "cache"}
    first = judged_by(verifier, rollouts, proposals, tmp_path / "first", **cached)
    renderer = renderer_of("template" if changed == "template" else "compact")
    if changed == "verifier":
        verifier.model.score.weight.data.neg_()
        verifier = replace(verifier, verifier_id="other")
    judged = written_otherwise if changed == "proposals" else proposals
    options = {"renderer": renderer}
    expected = judged_by(verifier, rollouts, judged, tmp_path / "alone", **options)
    assert [s.log_odds for s in expected] != [s.log_odds for s in first]
    second = judged_by(verifier, rollouts, judged, tmp_path / "second", **options, **cached)
    assert [replace(s, seconds=0.0) for s in second] == [replace(s, seconds=0.0) for s in expected]


def test_scores_in_other_numbers_are_other_scores(rollouts, proposals, tmp_path, save_verifier):
    verifier = ClassifierVerifier.load(save_verifier(tmp_path / "judge", 2))
    cached = {"cache_dir": tmp_path / "cache"}
    exact = judged_by(verifier, rollouts, proposals, tmp_path / "scores", **cached)
    assert "dtype" not in read_manifest(tmp_path / "scores").arguments
    verifier.model.to(torch.bfloat16)
    rounded = judged_by(verifier, rollouts, proposals, tmp_path / "scores", **cached)
    assert [s.log_odds for s in rounded] != [s.log_odds for s in exact]
    assert read_manifest(tmp_path / "scores").arguments["dtype"] == "bfloat16"


def test_a_verifier_that_depends_on_more_than_its_name_is_not_cached(rollouts, proposals, tmp_path):
    model = LanguageModel.load(BASE)
    table = read_table(proposals / "proposals.parquet", Proposal)
    # Of an action that is none of the proposals: what is its own has no score but 0.
    other = Action(type="final_answer", text="none of these")
    own = {p.step_id: replace(p, action=other) for p in table if p.sample == 0}
    judge = StrongJudge(verifier_id="j", model=model.model, renderer=model.renderer, own=own)
    dearer = replace(
        judge, own={step: replace(p, logprob=p.logprob + 1.0) for step, p in own.items()}
    )
    first, second = (
        judged_by(each, rollouts, proposals, tmp_path / str(i), cache_dir=tmp_path, num_samples=1)
        for i, each in enumerate((judge, dearer))
    )
    for score, less in zip(first, second, strict=True):
        if score.log_odds is not None:
            assert less.log_odds == pytest.approx(score.log_odds - 1.0)


def judged_together(rollouts, judged, out, lm):
    """The strong model's proposals and its scores, made by one reading."""
    collect.collect_judged_proposals(
        rollouts,
        out / "strong",
        lm,
        ["train_verifier"],
        sampling=Sampling(max_new_tokens=40),
        judged_dir=judged,
        scores_dir=out / "scores",
    )
    return tables_of(out)


def tables_of(out):
    proposals = read_table(out / "strong" / "proposals.parquet", Proposal)
    return proposals, read_table(out / "scores" / "scores.parquet", Score)


def assert_alike(found, expected):
    """The same rows up to rounding, whatever they cost."""
    for rows, others in zip(found, expected, strict=True):
        for row, other in zip(rows, others, strict=True):
            cost = {"seconds": 0.0, "num_cached_tokens": 0}
            if isinstance(row, Proposal):
                value, cost = "logprob", cost | {"tool_seconds": None}
            else:
                value, cost = "log_odds", cost | {"num_tokens": 0}
            assert getattr(row, value) == pytest.approx(getattr(other, value), abs=1e-4)
            assert replace(row, **cost, **{value: None}) == replace(other, **cost, **{value: None})


@pytest.fixture(scope="module")
def apart(rollouts, proposals, tmp_path_factory):
    """Folder of the strong model's proposals and of its scores, made one after the other."""
    out = tmp_path_factory.mktemp("apart")
    lm = LanguageModel.load(BASE)
    collect.collect_proposals(
        rollouts, out / "strong", lm, ["train_verifier"], sampling=Sampling(max_new_tokens=40)
    )
    own = read_table(out / "strong" / "proposals.parquet", Proposal)
    judge = StrongJudge.of(lm, {p.step_id: p for p in own})
    judged_by(judge, rollouts, proposals, out / "scores")
    return out


def test_who_proposes_and_judges_reads_each_history_once(rollouts, proposals, apart, tmp_path):
    own, scores = judged_together(rollouts, proposals, tmp_path, LanguageModel.load(BASE))
    assert_alike((own, scores), tables_of(apart))
    for name in ("strong", "scores"):
        one, other = read_manifest(tmp_path / name), read_manifest(apart / name)
        assert (one.inputs, one.arguments) == (other.inputs, other.arguments)
    assert any(score.log_odds for score in scores)  # what is not its own action
    lengths = {p.step_id: p.num_prompt_tokens for p in own}
    judged = read_table(proposals / "proposals.parquet", Proposal)
    for score, p in zip(scores, judged, strict=True):
        assert score.num_cached_tokens == (lengths[p.step_id] if score.num_tokens else 0)


def test_a_judge_that_was_killed_judges_what_is_left(
    rollouts, proposals, apart, tmp_path, monkeypatch
):
    monkeypatch.setattr(outcomes_module, "CHUNK_ROLLOUTS", 1)
    lm, expected = LanguageModel.load(BASE), tables_of(apart)
    keep = outcomes_module.append_shard

    def killed_at_the_second(folder, index, rows):
        if index == 1:  # its scores are kept already
            raise KeyboardInterrupt
        return keep(folder, index, rows)

    with monkeypatch.context() as patch:
        patch.setattr(outcomes_module, "append_shard", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            judged_together(rollouts, proposals, tmp_path, lm)
    assert len(list(tmp_path.glob("scores.partial/shards/*"))) == 2
    assert_alike(judged_together(rollouts, proposals, tmp_path, lm), expected)
    for folder in ("scores", "strong"):  # one of the tables is there and the other is not
        shutil.rmtree(tmp_path / folder)
        assert_alike(judged_together(rollouts, proposals, tmp_path, lm), expected)


def test_a_cache_that_is_none_is_refused(rollouts, tmp_path, capsys):
    (tmp_path / "rows.sqlite").write_text("not a database, but text of some length" * 20)
    assert outcomes(rollouts, tmp_path / "out", "--cache", tmp_path) == 2
    assert "must be a cache" in capsys.readouterr().err


def test_proposals_in_another_order_are_refused(rollouts, tmp_path):
    assert outcomes(rollouts, tmp_path / "p") == 0
    table = tmp_path / "p" / "proposals.parquet"
    proposals = read_table(table, Proposal)
    write_table(table, proposals[::-1])
    with pytest.raises(ConfigError, match=r"in their order, but those of .* come too early"):
        collect.collect_scores(
            rollouts,
            tmp_path / "p",
            tmp_path / "s",
            SampleAgreement(),
            Renderer(tokenizer=AutoTokenizer.from_pretrained(BASE), catalogue="compact"),
            ["train_verifier"],
        )
