"""Whole episodes: who runs beside whom changes nothing, and the table is what the episodes say."""

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification

from specact_rl.actions.parsing import parse_action
from specact_rl.actions.serialise import action_text
from specact_rl.envs.episodes import expert_policy, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.eval.live import LiveEpisode, live_in_shards, live_rows, run_live
from specact_rl.metrics.cost import ModelSize
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.tiny import STOP_TOKEN, train_tokenizer
from specact_rl.policy.asking import RememberingModel, RememberingVerifier
from specact_rl.policy.live import LiveSystem
from specact_rl.policy.systems import SYSTEMS
from specact_rl.rendering import Renderer
from specact_rl.verifiers import ClassifierVerifier, ProposerConfidence, StrongJudge
from tests.gates import make_gate
from tests.records import make_proposal
from tests.tiny_models import tiny_config

TASKS = [f"ws-{seed:06d}" for seed in range(4)]
BROKEN = "<tool_call>"


@pytest.fixture(scope="module")
def renderer():
    texts = ["read file f3 of the ticket t1; done", "Which file?"]
    return Renderer(tokenizer=train_tokenizer(texts, 300), catalogue="compact")


def tiny_model(kind, renderer, **options):
    torch.manual_seed(0)
    config = tiny_config(renderer.tokenizer, **options)
    return kind(config).eval()


@pytest.fixture(scope="module")
def tiny_lm(renderer):
    """Random weights; some of its turns end in time and are an answer, others are cut off."""
    model = tiny_model(Qwen3ForCausalLM, renderer)
    stop = renderer.tokenizer.convert_tokens_to_ids(STOP_TOKEN)
    with torch.no_grad():
        model.model.embed_tokens.weight[stop] *= 4.0
    return LanguageModel(model_id="tiny", model=model, renderer=renderer)


@pytest.fixture(scope="module")
def classifier(renderer):
    tokenizer = renderer.tokenizer
    model = tiny_model(
        Qwen3ForSequenceClassification, renderer, num_labels=2, pad_token_id=tokenizer.pad_token_id
    )
    return ClassifierVerifier(verifier_id="classifier", model=model, renderer=renderer)


@dataclass
class ExpertModel:
    """Writes what the expert does on an unspoilt course, or always the same."""

    model_id: str
    size: ModelSize = ModelSize(num_params=10)
    says: str | None = None
    rounds: list[int] = field(default_factory=list)

    def propose(self, steps, sampling):
        self.rounds.append(len(steps))
        return [[self.proposal(step)] * sampling.num_samples for step in steps]

    def proposal(self, step):
        text = self.says
        if text is None:
            rollout = run_episode(Workspace.from_task_id(step.task_id), expert_policy, "expert")
            text = action_text(rollout.steps[step.index].executed)
        parsed = parse_action(text, step.tools, step.history)
        return make_proposal(
            step,
            parsed.action or text,
            model=self.model_id,
            text=text,
            parse_error=parsed.error,
            label_source="none",
            logprob=-0.1,
            num_prompt_tokens=100 + 10 * step.index,
            num_completion_tokens=7,
            seconds=0.25,
        )


def gated(proposer, strong, renderer, threshold):
    return LiveSystem(
        system=SYSTEMS["D-logp"],
        strong=strong,
        proposer=proposer,
        verifier=ProposerConfidence(),
        renderer=renderer,
        gate=make_gate(threshold, proposer_id=proposer.model_id, verifier_id="proposer_logprob"),
        sampling=Sampling(),
    )


def strong_only(strong):
    return LiveSystem(system=SYSTEMS["A"], strong=strong, sampling=Sampling())


def sampling_system(lm, renderer, seed):
    """Three sampled proposals of a real model, some of which are accepted."""
    system = replace(SYSTEMS["E"], verifier="proposer_logprob")
    return LiveSystem(
        system=system,
        strong=lm,
        proposer=lm,
        verifier=ProposerConfidence(),
        renderer=renderer,
        gate=make_gate(1e-7, proposer_id=lm.model_id, verifier_id="proposer_logprob"),
        sampling=Sampling(num_samples=3, max_new_tokens=6, seed=seed),
    )


def acting(num_proposals, lm, verifier, renderer):
    """System E with a classifier, one model being cheap and strong."""
    return LiveSystem(
        system=replace(SYSTEMS["E"], num_proposals=num_proposals),
        strong=lm,
        proposer=lm,
        verifier=verifier,
        renderer=renderer,
        gate=make_gate(0.1, proposer_id=lm.model_id, verifier_id="classifier"),
        sampling=Sampling(num_samples=num_proposals, max_new_tokens=6),
    )


@dataclass
class Counted:
    """A model or verifier, and how many steps or items it was asked about."""

    inner: object
    count: int = 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def propose(self, steps, sampling):
        self.count += len(steps)
        return self.inner.propose(steps, sampling)

    def judge(self, items):
        self.count += len(items)
        return self.inner.judge(items)


def without_seconds(episodes):
    """Scores are left out, too: their last digits depend on what shares a batch."""
    return [
        replace(
            episode,
            seconds=0.0,
            steps=[replace(step, log_odds=None, p_accept=None) for step in episode.steps],
        )
        for episode in episodes
    ]


def scores(episodes):
    return [step.log_odds or np.nan for episode in episodes for step in episode.steps]


def test_episodes_in_lockstep_are_those_run_alone(tiny_lm, renderer):
    system = sampling_system(tiny_lm, renderer, seed=0)
    together = run_live(system, TASKS)
    alone = [episode for task in TASKS for episode in run_live(system, [task])]
    assert without_seconds(together) == without_seconds(alone)
    assert scores(together) == pytest.approx(scores(alone), abs=1e-3, nan_ok=True)
    assert len({episode.num_steps for episode in together}) > 1  # some ended before others
    assert sum(episode.num_accepted for episode in together) > 0
    assert sum(episode.num_fallback for episode in together) > 0


def test_episodes_depend_on_the_seed_and_on_nothing_else(tiny_lm, renderer):
    first, again, other = (
        without_seconds(run_live(sampling_system(tiny_lm, renderer, seed), TASKS))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_same_prompts_get_the_same_proposals_in_every_system(tiny_lm, renderer):
    one = sampling_system(tiny_lm, renderer, seed=0)
    other = replace(one, system=replace(one.system, name="E by another name"))
    episodes = run_live(one, TASKS)
    assert without_seconds(run_live(other, TASKS)) == [
        replace(episode, system="E by another name") for episode in without_seconds(episodes)
    ]
    assert sum(episode.num_accepted for episode in episodes) > 0  # draws were executed


def test_systems_that_share_a_memory_act_as_those_that_do_not(tiny_lm, classifier, renderer):
    sizes = (2, 3, 2)
    apart = [
        without_seconds(run_live(acting(size, tiny_lm, classifier, renderer), TASKS))
        for size in sizes
    ]
    lm, judge = Counted(tiny_lm), Counted(classifier)
    model, verifier = RememberingModel(model=lm), RememberingVerifier(verifier=judge)
    together, asked = [], []
    for size in sizes:
        system = acting(size, model, verifier, renderer)
        together.append(without_seconds(run_live(system, TASKS)))
        asked.append((lm.count, judge.count))
    assert together == apart
    assert apart[0] != apart[1]
    for episodes in apart:  # both ways are taken
        assert sum(episode.num_accepted for episode in episodes) > 0
        assert sum(episode.num_fallback for episode in episodes) > 0
    assert asked[2] == asked[1]  # all that is asked with two samples is known by then


def judged_by_itself(lm):
    """System C, one model being cheap, strong and judge."""
    judge = StrongJudge.of(lm, {})
    return LiveSystem(
        system=SYSTEMS["C"],
        strong=lm,
        proposer=lm,
        verifier=judge,
        renderer=lm.renderer,
        gate=make_gate(0.4, proposer_id=lm.model_id, verifier_id=judge.verifier_id),
        sampling=Sampling(num_samples=1, max_new_tokens=6),
    )


def test_models_that_keep_what_they_have_read_act_as_those_that_do_not(
    tiny_lm, classifier, renderer
):
    read = {}

    def count(module, inputs, output):
        read[name] = read.get(name, 0) + inputs[0].numel()

    hooks = [
        model.model.embed_tokens.register_forward_hook(count)
        for model in (tiny_lm.model, classifier.model)
    ]
    anew, kept = {}, {}
    try:
        for name in ("E anew", "E kept", "C anew", "C kept"):
            lm, judge = tiny_lm, classifier
            if "kept" in name:
                lm, judge = tiny_lm.keeping_prefixes(), classifier.keeping_prefixes()
            system = acting(3, lm, judge, renderer) if "E" in name else judged_by_itself(lm)
            (kept if "kept" in name else anew)[name[0]] = run_live(system, TASKS)
    finally:
        for hook in hooks:
            hook.remove()
    for name, episodes in anew.items():
        assert without_seconds(kept[name]) == without_seconds(episodes)
        assert scores(kept[name]) == pytest.approx(scores(episodes), abs=1e-3, nan_ok=True)
        assert max(episode.num_steps for episode in episodes) > 2
    assert read["E kept"] < 0.6 * read["E anew"]
    assert read["C kept"] < 0.4 * read["C anew"]  # three read the same there


def test_remembered_answers_cost_what_they_did_when_they_were_given(tiny_lm, classifier, renderer):
    model = RememberingModel(model=tiny_lm)
    verifier = RememberingVerifier(verifier=classifier)
    first, again = (run_live(acting(3, model, verifier, renderer), TASKS) for _ in range(2))
    assert again == first  # seconds and FLOPs, too
    assert all(episode.seconds > 0 for episode in again)


def test_strong_model_is_asked_once_where_two_systems_come_to_the_same_step(renderer):
    expert = ExpertModel("expert")
    strong = RememberingModel(model=expert)
    run_live(strong_only(strong), TASKS)
    rounds = list(expert.rounds)
    lost = ExpertModel("lost", says="I give up now")
    for episode in run_live(gated(lost, strong, renderer, None), TASKS):
        assert episode.success  # nothing is accepted: the strong model's own course
    assert expert.rounds == rounds


def test_model_that_writes_the_experts_actions_needs_the_experts_steps():
    for episode in run_live(strong_only(ExpertModel("expert")), TASKS):
        assert episode.success
        assert episode.num_steps == episode.expert_steps == episode.num_fallback
        assert (episode.num_accepted, episode.num_unparsable) == (0, 0)
        # prompts of 100, 110, …: the last one's length is read in all, 7 tokens written a step
        read = 100 + 10 * (episode.num_steps - 1)
        assert episode.flops == 2 * 10 * (read + 7 * episode.num_steps)
        assert episode.seconds == pytest.approx(0.25 * episode.num_steps)


def test_text_that_is_no_action_counts_as_a_step_until_the_environment_ends_the_episode():
    for episode in run_live(strong_only(ExpertModel("broken", says=BROKEN)), TASKS):
        assert not episode.success
        assert episode.num_steps == Workspace.from_task_id(episode.task_id).max_steps
        assert episode.num_unparsable == episode.num_steps


@pytest.mark.parametrize(("threshold", "accepts"), [(0.0, True), (None, False)])
def test_gate_decides_whose_actions_are_executed(threshold, accepts, renderer):
    lost = ExpertModel("lost", says="I give up now")
    system = gated(lost, ExpertModel("expert"), renderer, threshold)
    for episode in run_live(system, TASKS):
        assert episode.success == (not accepts)
        assert (episode.num_accepted > 0, episode.num_fallback > 0) == (accepts, not accepts)


class Wavering(ExpertModel):
    """Sure of itself at every other step, and at a loss for words at each fifth."""

    def proposal(self, step):
        sure = super().proposal(step)
        if step.index % 5 == 4:
            return replace(sure, action=None, text=BROKEN, parse_error="broken")
        return sure if step.index % 2 else replace(sure, logprob=-3.0)


def test_a_step_says_what_the_gate_saw_and_what_it_decided(renderer):
    system = gated(Wavering("cheap"), ExpertModel("expert"), renderer, 0.5)
    reasons = set()
    for episode in run_live(system, [f"ws-{seed:06d}" for seed in range(12)]):
        for i, step in enumerate(episode.steps):
            p = None if i % 5 == 4 else np.exp(-0.1 if i % 2 else -3.0)
            assert step.p_accept == (None if p is None else pytest.approx(p))
            assert step.log_odds == (None if p is None else pytest.approx(np.log(p / (1.0 - p))))
            assert step.accepted == (p is not None and p > 0.5)
            assert step.acceptable == (p is not None)
            reasons.add(step.reason)
    assert reasons == {"accepted", "below_threshold", "unparsable"}


@pytest.mark.parametrize(("threshold", "accepts"), [(0.0, True), (None, False)])
def test_the_proposal_is_labelled_whoever_acts(threshold, accepts, renderer):
    for says, right in ((None, True), ("I give up now", False)):
        offering = ExpertModel("cheap", says=says)
        for episode in run_live(gated(offering, ExpertModel("expert"), renderer, threshold), TASKS):
            assert len(episode.steps) == episode.num_steps
            assert {step.acceptable for step in episode.steps} == {right}
            assert {step.match_level == "arguments" for step in episode.steps} == {right}
            assert {step.label_source for step in episode.steps} == {"cost_to_go"}
            # Labels cost the episode no step.
            assert episode.num_steps == (1 if accepts and not right else episode.expert_steps)


def test_labels_are_of_the_state_that_the_episode_is_in(renderer):
    expert = ExpertModel("expert")
    [task] = [t for t in TASKS if Workspace.from_task_id(t).cost_to_go() > 2][:1]
    first = Workspace.from_task_id(task).expert_action()
    same = ExpertModel("same", says=action_text(first))
    [episode] = run_live(gated(same, expert, renderer, None), [task])
    assert [step.acceptable for step in episode.steps] == [True] + [False] * (episode.num_steps - 1)


def test_without_a_proposer_nothing_is_labelled():
    for episode in run_live(strong_only(ExpertModel("expert")), TASKS):
        assert {step.acceptable for step in episode.steps} == {None}
        assert {step.reason for step in episode.steps} == {"no_proposer"}


def test_episodes_that_ran_before_steps_were_kept_are_still_read(tmp_path):
    found = live_in_shards(tmp_path, strong_only(ExpertModel("expert")), TASKS)
    [shard] = tmp_path.iterdir()
    pq.write_table(pq.read_table(shard).drop_columns(["steps"]), shard)
    old = live_in_shards(tmp_path, strong_only(ExpertModel("expert")), TASKS)
    assert old == [replace(episode, steps=None) for episode in found]


def test_unparsable_proposals_go_to_the_strong_model_whatever_the_threshold(renderer):
    broken = ExpertModel("broken", says=BROKEN)
    for episode in run_live(gated(broken, ExpertModel("expert"), renderer, 0.0), TASKS):
        assert episode.success
        assert (episode.num_accepted, episode.num_unparsable) == (0, 0)


def test_each_round_asks_for_the_steps_of_all_episodes_that_go_on():
    model = ExpertModel("expert")
    lengths = [episode.num_steps for episode in run_live(strong_only(model), TASKS)]
    assert model.rounds == [sum(n > i for n in lengths) for i in range(max(lengths))]


def test_progress_counts_every_episode_once():
    finished = []
    run_live(strong_only(ExpertModel("expert")), TASKS, progress=finished.append)
    assert sum(finished) == len(TASKS)
    assert all(count > 0 for count in finished)


def test_same_task_twice_is_refused():
    with pytest.raises(ValueError, match="distinct"):
        run_live(strong_only(ExpertModel("expert")), [TASKS[0], TASKS[0]])


def test_episodes_on_disk_are_not_run_again(tmp_path):
    model = ExpertModel("expert")
    finished = []
    first = live_in_shards(tmp_path, strong_only(model), TASKS, finished.append)
    rounds = len(model.rounds)
    again = live_in_shards(tmp_path, strong_only(model), TASKS, finished.append)
    assert again == first
    assert len(model.rounds) == rounds
    assert sum(finished) == 2 * len(TASKS)


def episodes(system, successes, steps, accepted, flops):
    return [
        LiveEpisode(
            system=system,
            task_id=f"t{i}",
            family="f",
            success=success,
            num_steps=steps,
            expert_steps=4,
            num_accepted=accepted,
            num_fallback=steps - accepted,
            num_unparsable=1,
            flops=flops * (i + 1),
            seconds=2.0 + i,
        )
        for i, success in enumerate(successes)
    ]


def test_rows_are_what_the_episodes_say():
    results = {
        "A": episodes("A", [True, True, False, True], 5, 0, 8_000_000),
        # handed over in another order: rows are paired by task
        "D": episodes("D", [True, False, False, False], 8, 6, 2_000_000)[::-1],
    }
    a, d = live_rows(results, np.random.default_rng(0))
    assert (a["name"], a["n"], a["accept_rate"]) == ("A", 4, None)
    assert a["success"].value == pytest.approx(0.75)
    assert a["success"].low < 0.75 < a["success"].high
    assert a["excess_steps"] == pytest.approx(1.0)  # 5 steps against the expert's 4
    assert a["mflops_per_task"] == pytest.approx(20.0)  # (8 + 16 + 24 + 32) / 4
    assert a["relative_flops"].value == pytest.approx(1.0)
    assert a["difference_from_a"].value == 0.0
    assert (d["name"], d["title"]) == ("D", SYSTEMS["D"].title)
    assert d["success"].value == pytest.approx(0.25)
    assert (d["num_steps"], d["excess_steps"]) == (8.0, 4.0)
    assert d["accept_rate"].value == pytest.approx(0.75)  # 6 of 8 steps
    assert d["unparsable_rate"] == pytest.approx(1 / 8)
    assert d["relative_flops"].value == pytest.approx(0.25)
    # a quarter on each task by itself, so that no resampling of tasks moves it
    assert d["relative_flops"].low is None
    assert "the same in every draw" in d["relative_flops"].note
    assert d["seconds_per_task"] == pytest.approx(3.5)
    # by task: 0, -1, 0, -1
    assert d["difference_from_a"].value == pytest.approx(-0.5)
    assert d["difference_from_a"].num_clusters == 4


def test_an_accept_rate_of_one_has_an_interval_where_it_could_be_less():
    results = {
        "A": episodes("A", [True] * 4, 5, 0, 1),
        "D": episodes("D", [True] * 4, 5, 5, 1),
        "B": episodes("B", [True] * 4, 5, 5, 1),
    }
    _, gated, without_fallback = live_rows(results, np.random.default_rng(0))
    rate = gated["accept_rate"]
    # rows that are all alike count once a task: Wilson at 4 of 4, n / (n + z^2)
    assert (rate.value, rate.high) == (1.0, 1.0)
    assert rate.low == pytest.approx(4 / (4 + 1.96**2), rel=1e-3)
    # what can reject nothing was not measured
    rate = without_fallback["accept_rate"]
    assert (rate.value, rate.low, rate.n) == (1.0, None, 20)


def test_excess_steps_of_a_system_that_never_succeeds_are_unknown():
    results = {
        "A": episodes("A", [True, True], 5, 0, 1),
        "B": episodes("B", [False, False], 9, 9, 1),
    }
    assert live_rows(results, np.random.default_rng(0))[1]["excess_steps"] is None


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"D": episodes("D", [True, True], 5, 0, 1)}, "need system 'A'"),
        (
            {
                "A": episodes("A", [True, True], 5, 0, 1),
                "D": episodes("D", [True], 5, 0, 1),
            },
            "must have run on the 2 tasks",
        ),
        ({"A": episodes("A", [True], 5, 0, 1) * 2}, "one episode per task"),
    ],
    ids=["no A", "other tasks", "task twice"],
)
def test_results_that_cannot_be_paired_are_refused(results, message):
    with pytest.raises(ValueError, match=message):
        live_rows(results, np.random.default_rng(0))
