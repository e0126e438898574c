"""Who is asked again, and what an answer that was remembered costs."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.metrics.cost import ModelSize
from specact_rl.models.language_model import Sampling
from specact_rl.policy.asking import RememberingModel, RememberingVerifier, judge_timed
from specact_rl.rendering import RolloutTokens
from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers import Item, Judgements

SAMPLING = Sampling(num_samples=2, temperature=0.7, seed=5)


@dataclass
class CountingModel:
    """Each call's proposals take longer than the last's; the text says where it was asked what."""

    make: object
    model_id: str = "m"
    size: ModelSize = ModelSize(num_params=7)
    asked: list = field(default_factory=list)

    def propose(self, steps, sampling):
        self.asked.append([step.step_id for step in steps])
        return [
            [
                self.make.proposal(
                    step,
                    self.make.say(f"{step.step_id} {len(step.history)} {sample}"),
                    None,
                    sample=sample,
                    seconds=float(len(self.asked)),
                )
                for sample in range(sampling.num_samples)
            ]
            for step in steps
        ]


@dataclass
class CountingVerifier:
    """Log-odds are the length of the action's text; each call's prompts cost 100 tokens more."""

    verifier_id: str = "v"
    size: ModelSize = ModelSize(num_params=3)
    asked: list = field(default_factory=list)

    def judge(self, items):
        texts = [item.proposal.text for item in items]
        self.asked.append(texts)
        return Judgements(
            log_odds=np.array([float(len(text)) for text in texts]),
            num_tokens=np.full(len(items), 100 * len(self.asked)),
            num_cached_tokens=np.arange(len(items)),
        )


@pytest.fixture(scope="module")
def steps():
    noisy = NoisyExpert(noise=0.3, rng=random.Random(0))
    return list(run_episode(Workspace(0), noisy, "noisy").each_step())[:3]


@pytest.fixture
def counting(make):
    return CountingModel(make)


@pytest.fixture
def model(counting):
    return RememberingModel(model=counting)


def test_model_is_asked_only_at_steps_that_are_new(model, counting, steps):
    first = model.propose(steps[:2], SAMPLING)
    again = model.propose([steps[2], steps[1], steps[0]], SAMPLING)
    assert counting.asked == [[s.step_id for s in steps[:2]], [steps[2].step_id]]
    assert again[1:] == first[::-1]
    assert again[0][0].step_id == steps[2].step_id
    assert (model.model_id, model.size.num_params) == ("m", 7)


def test_fewer_samples_are_the_first_of_those_known(model, counting, steps):
    three = model.propose(steps[:1], replace(SAMPLING, num_samples=3))
    one = model.propose(steps[:1], replace(SAMPLING, num_samples=1))
    assert one == [three[0][:1]]
    assert len(counting.asked) == 1


def test_more_samples_are_asked_for_and_the_known_ones_keep_their_cost(model, counting, steps):
    model.propose(steps[:1], replace(SAMPLING, num_samples=1))
    [three] = model.propose(steps[:1], replace(SAMPLING, num_samples=3))
    assert [p.sample for p in three] == [0, 1, 2]
    assert [p.seconds for p in three] == [1.0, 2.0, 2.0]
    model.propose(steps[:1], replace(SAMPLING, num_samples=2))
    assert len(counting.asked) == 2


@pytest.mark.parametrize(
    "change",
    [{"temperature": 1.0}, {"seed": 6}, {"max_new_tokens": 9}],
    ids=lambda c: next(iter(c)),
)
def test_other_sampling_is_another_question(change, model, counting, steps):
    model.propose(steps[:1], SAMPLING)
    model.propose(steps[:1], replace(SAMPLING, **change))
    assert len(counting.asked) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"history": [{"role": "user", "content": "Another course of things."}]},
        {"tools": [ToolSpec(name="other")]},
        {"step_id": "elsewhere/0"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_step_with_another_prompt_or_id_is_another_question(change, model, counting, steps):
    [before] = model.propose(steps[:1], SAMPLING)
    [after] = model.propose([replace(steps[0], **change)], SAMPLING)
    assert len(counting.asked) == 2
    assert before != after


def test_order_of_arguments_in_the_history_is_part_of_the_question(model, counting, steps):
    def after(arguments):
        call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
        return replace(
            steps[0], history=[{"role": "assistant", "content": "", "tool_calls": [call]}]
        )

    model.propose([after({"a": 1, "b": 2})], SAMPLING)
    model.propose([after({"b": 2, "a": 1})], SAMPLING)  # equal dicts, another prompt
    assert len(counting.asked) == 2


def test_callers_cannot_change_what_is_remembered(model, steps):
    [row] = model.propose(steps[:1], SAMPLING)
    row.clear()
    assert len(model.propose(steps[:1], SAMPLING)[0]) == 2


def make_item(make, step, action, model="m"):
    proposal = make.proposal(step, action, None, model=model)
    prompt = RolloutTokens.of_prompt([1, 2, 3], step.step_id).prompts()[0]
    return Item(step=step, prompt=prompt, proposal=proposal, siblings=(proposal,))


def test_verifier_is_asked_about_new_actions_only_whoever_proposed_them(make, steps):
    counting = CountingVerifier()
    verifier = RememberingVerifier(verifier=counting)
    short, long = make.say("No."), make.say("Done with it.")
    first = judge_timed(
        verifier, [make_item(make, steps[0], short), make_item(make, steps[1], short)]
    )
    again = judge_timed(
        verifier,
        [
            make_item(make, steps[1], short, model="another"),
            make_item(make, steps[0], long),
            make_item(make, steps[0], short),
        ],
    )
    assert counting.asked == [["No.", "No."], ["Done with it."]]
    assert again.log_odds.tolist() == [3.0, 13.0, 3.0]
    # as first judged: 100 tokens and 1 cached, then 200 and 0 in the second call
    assert again.num_tokens.tolist() == [101, 200, 100]
    assert again.seconds[[2, 0]].tolist() == first.seconds.tolist()
    assert (verifier.verifier_id, verifier.size.num_params) == ("v", 3)


def test_actions_that_differ_in_their_text_alone_are_judged_apart(make, steps):
    counting = CountingVerifier()
    verifier = RememberingVerifier(verifier=counting)
    for arguments in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        action = Action(type="tool_call", tool="find", arguments=arguments)
        judge_timed(verifier, [make_item(make, steps[0], action)])
    assert len(counting.asked) == 2


def test_judging_time_is_shared_evenly(make, steps):
    items = [make_item(make, step, make.say("No.")) for step in steps]
    judged = judge_timed(CountingVerifier(), items)
    assert len(set(judged.seconds.tolist())) == 1
    assert judged.num_tokens.tolist() == [100, 101, 102]
    chosen = judged.rows([2, 0])
    assert chosen.num_tokens.tolist() == [102, 100]
