"""Outcome tables: every step proposed and labelled once, every proposal scored once."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from specact_rl.actions.parsing import parse_action
from specact_rl.actions.serialise import action_text
from specact_rl.envs.episodes import NoisyExpert, expert_policy, run_episode
from specact_rl.envs.labels import StepLabeller
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import EnvironmentFault
from specact_rl.eval import outcomes
from specact_rl.eval.columns import ProposalColumns, StepTable, score_matrix
from specact_rl.eval.outcomes import (
    Work,
    alone,
    generated_proposals,
    in_shards,
    looking_first,
    num_computed_tokens,
    num_steps,
    ranked_proposals,
    rollout_of,
    split_rows,
    verifier_scores,
)
from specact_rl.eval.team import Team
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer, compact_catalogue
from specact_rl.store import RowCache, read_shards
from specact_rl.types import Proposal, Score
from specact_rl.verifiers import ProposerConfidence, SampleAgreement

SAMPLING = Sampling(num_samples=3, max_new_tokens=24, seed=1)


@pytest.fixture(scope="module")
def rollouts():
    policies = [NoisyExpert(noise=0.4, rng=random.Random(seed)) for seed in range(5)]
    return [run_episode(Workspace(seed), p, "noisy") for seed, p in enumerate(policies)]


@pytest.fixture(scope="module")
def renderer(rollouts):
    texts = [compact_catalogue(rollout.tools) for rollout in rollouts]
    texts += [str(m["content"]) for r in rollouts for m in r.messages]
    texts += [action_text(s.executed) for r in rollouts for s in r.steps]
    return Renderer(tokenizer=train_tokenizer(texts, 400), catalogue="compact")


@pytest.fixture(scope="module")
def lm(rollouts, renderer):
    """20k weights that have learned a little: some texts parse, some are right."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(renderer.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=renderer.tokenizer.pad_token_id,
        eos_token_id=renderer.tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    rows = [
        torch.tensor([renderer.conversation_ids(run_episode(Workspace(s), expert_policy, "e"))])
        for s in range(5)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for i in range(150):
        row = rows[i % len(rows)]
        model(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return LanguageModel(model_id="tiny", model=model.eval(), renderer=renderer)


@pytest.fixture(scope="module")
def generated(lm, rollouts):
    return generated_proposals(lm, rollouts, SAMPLING)


def steps_of(rollouts):
    return [step for rollout in rollouts for step in rollout.each_step()]


def test_every_step_has_every_sample_in_order(generated, rollouts):
    expected = [(step.step_id, k) for step in steps_of(rollouts) for k in range(3)]
    assert [(p.step_id, p.sample) for p in generated] == expected
    assert len({p.proposal_id for p in generated}) == len(generated)


def test_some_texts_are_actions_and_some_are_right(generated):
    # Else the tests below would compare nothing.
    assert 0 < sum(p.action is not None for p in generated) < len(generated)
    assert 0 < sum(bool(p.acceptable) for p in generated) < len(generated)


def test_actions_are_what_the_parser_makes_of_the_texts(generated, rollouts):
    steps = {step.step_id: step for step in steps_of(rollouts)}
    for proposal in generated:
        step = steps[proposal.step_id]
        parsed = parse_action(proposal.text, step.tools, step.history)
        if proposal.num_completion_tokens < SAMPLING.max_new_tokens:
            assert proposal.action == parsed.action
            assert proposal.parse_error == parsed.error
        assert (proposal.action is None) == (proposal.parse_error is not None)


def test_text_that_was_cut_off_is_no_action(lm, rollouts):
    # One token, which would be an action by itself, or the stop token and nothing before it.
    cut = generated_proposals(lm, rollouts[:2], Sampling(max_new_tokens=1))
    assert all(p.action is None for p in cut)
    errors = {p.parse_error for p in cut}
    assert errors - {"empty text"} == {"no stop token within the token limit"}
    assert not any(p.acceptable for p in cut)


def test_labels_are_those_of_the_environment(generated, rollouts):
    labellers = {r.rollout_id: StepLabeller(r) for r in rollouts}
    steps = {step.step_id: step for step in steps_of(rollouts)}
    for proposal in generated:
        step = steps[proposal.step_id]
        label = labellers[step.rollout_id].label(step.index, proposal.action)
        assert proposal.acceptable is label.acceptable
        assert proposal.same_state == label.same_state
        assert proposal.match_level == label.match_level
        assert proposal.label_source == "cost_to_go"


def test_label_is_unknown_exactly_where_the_goal_is_out_of_reach(generated, rollouts):
    reach = {
        step.step_id: record.cost_to_go
        for rollout in rollouts
        for step, record in zip(rollout.each_step(), rollout.steps, strict=True)
    }
    for proposal in generated:
        assert (proposal.acceptable is None) == (reach[proposal.step_id] is None)


def test_proposals_do_not_depend_on_what_else_is_proposed(lm, generated, rollouts):
    alone = [p for rollout in rollouts for p in generated_proposals(lm, [rollout], SAMPLING)]
    assert [p.text for p in alone] == [p.text for p in generated]
    np.testing.assert_allclose(
        [p.logprob for p in alone], [p.logprob for p in generated], atol=1e-3
    )


def test_sample_zero_does_not_depend_on_the_seed_and_others_do(lm, generated, rollouts):
    other = generated_proposals(lm, rollouts, replace(SAMPLING, seed=2))
    same = [a.text == b.text for a, b in zip(generated, other, strict=True)]
    assert all(same[::3])
    assert not all(same)


def test_log_that_was_tampered_with_is_not_proposed_on(lm, rollouts):
    edited = replace(rollouts[0], steps=rollouts[0].steps[1:])
    with pytest.raises(EnvironmentFault):
        generated_proposals(lm, [edited], SAMPLING)


@pytest.fixture(scope="module")
def ranked(lm, rollouts):
    return ranked_proposals(lm, rollouts[:3])


@torch.inference_mode()
def plain_logprobs(lm, step, actions):
    values = []
    for action in actions:
        prompt, end = lm.renderer.prompt_ids(step), lm.renderer.completion_ids(action)
        logprobs = lm.model(input_ids=torch.tensor([prompt + end])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(end) - 1)
        values.append(sum(float(logprobs[i, t]) for i, t in zip(places, end, strict=True)))
    return np.array(values)


def test_ranking_takes_the_likeliest_candidate(lm, ranked, rollouts):
    labeller = StepLabeller(rollouts[0])
    for step, proposal in zip(rollouts[0].each_step(), ranked, strict=False):
        legal = labeller.environment_at(step.index).legal_actions()
        values = plain_logprobs(lm, step, legal)
        best = int(values.argmax())
        assert proposal.action == legal[best]
        assert proposal.text == action_text(legal[best])
        assert proposal.num_candidates == len(legal) >= 16
        share = float(np.exp(values[best]) / np.exp(values).sum())
        assert math.exp(proposal.logprob) == pytest.approx(share, rel=1e-3)
        assert proposal.num_completion_tokens == sum(
            len(lm.renderer.completion_ids(action)) for action in legal
        )


def test_ranked_proposals_are_one_a_step_in_a_mode_of_their_own(ranked, generated, rollouts):
    assert [p.step_id for p in ranked] == [s.step_id for s in steps_of(rollouts[:3])]
    assert {(p.mode, p.sample, p.parse_error) for p in ranked} == {("rank", 0, None)}
    assert not {p.proposal_id for p in ranked} & {p.proposal_id for p in generated}


@pytest.mark.parametrize("table", ["ranked", "generated"])
def test_a_rollout_s_prompts_are_paid_for_once(table, request, rollouts):
    rows = [p for p in request.getfixturevalue(table) if p.sample == 0]
    for rollout in rollouts[:3]:
        here = [p for p in rows if p.step_id.startswith(rollout.rollout_id)]
        paid = sum(p.num_prompt_tokens - p.num_cached_tokens for p in here)
        assert paid == max(p.num_prompt_tokens for p in here)


def test_rollout_without_steps_has_no_proposals(lm, rollouts):
    empty = replace(rollouts[0], steps=[], messages=rollouts[0].messages[:2], success=None)
    assert ranked_proposals(lm, [empty]) == []
    assert generated_proposals(lm, [empty], SAMPLING) == []


def test_scores_are_in_the_order_of_the_proposals(generated, rollouts, renderer):
    scores = verifier_scores(ProposerConfidence(), rollouts, generated, renderer)
    assert [s.proposal_id for s in scores] == [p.proposal_id for p in generated]
    for score, proposal in zip(scores, generated, strict=True):
        assert (score.log_odds is None) == (proposal.action is None)


def test_nothing_to_score_has_no_scores(rollouts, renderer):
    assert verifier_scores(ProposerConfidence(), rollouts, [], renderer) == []


def work(rollouts, proposals=()):
    """Each rollout with its proposals."""
    return [
        Work(
            rollout=rollout,
            proposals=[p for p in proposals if rollout_of(p.step_id) == rollout.rollout_id],
        )
        for rollout in rollouts
    ]


def of_each(rows, rollouts):
    return [[p for p in rows if rollout_of(p.step_id) == r.rollout_id] for r in rollouts]


def test_shards_go_on_where_a_killed_run_was(generated, rollouts, tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "CHUNK_ROLLOUTS", 2)
    asked = []

    def propose(chunk):
        asked.append(len(chunk))
        if asked == [2, 2]:
            raise KeyboardInterrupt
        return of_each(generated, [w.rollout for w in chunk])

    with pytest.raises(KeyboardInterrupt):
        in_shards(tmp_path, work(rollouts), alone(propose))
    seen = []
    in_shards(tmp_path, work(rollouts), alone(propose), progress=lambda *told: seen.append(told))
    assert read_shards(tmp_path, Proposal) == generated
    assert asked == [2, 2, 2, 1]  # the first chunk is not asked for again
    steps = [len(r.steps) for r in rollouts]
    tokens = [sum(map(num_computed_tokens, rows)) for rows in of_each(generated, rollouts)]
    assert seen == [
        (steps[0] + steps[1], 0),  # nothing was computed for what was there
        (steps[2] + steps[3], tokens[2] + tokens[3]),
        (steps[4], tokens[4]),
    ]


def test_a_team_fills_what_one_process_would(generated, rollouts, tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "CHUNK_ROLLOUTS", 1)
    asked, seen = [], []

    def propose(chunk):
        asked.append(chunk[0].rollout.rollout_id)
        return of_each(generated, [w.rollout for w in chunk])

    for rank in (2, 1, 0):
        progress = (lambda done, _: seen.append(done)) if rank == 0 else None
        team = Team(rank=rank, size=3)
        in_shards(tmp_path, work(rollouts), alone(propose), progress=progress, team=team)
    assert read_shards(tmp_path, Proposal) == generated
    assert sorted(asked) == sorted(r.rollout_id for r in rollouts)  # each once
    assert sum(seen) == num_steps(rollouts)


def test_every_proposal_says_how_long_the_environment_took_to_execute_it(generated, lm, rollouts):
    for proposal in [*generated, *ranked_proposals(lm, rollouts[:1])]:
        assert proposal.tool_seconds >= 0.0


def test_scores_in_shards_are_the_scores(generated, rollouts, renderer, tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "CHUNK_ROLLOUTS", 2)
    verifier = SampleAgreement()
    whole = verifier_scores(verifier, rollouts, generated, renderer)

    def judge(chunk):
        proposals = [p for w in chunk for p in w.proposals]
        scores = verifier_scores(verifier, [w.rollout for w in chunk], proposals, renderer)
        return split_rows(scores, [len(w.proposals) for w in chunk])

    for _ in range(2):
        in_shards(tmp_path, work(rollouts, generated), alone(judge))
        parts = read_shards(tmp_path, Score)
        assert [replace(s, seconds=0.0) for s in parts] == [replace(s, seconds=0.0) for s in whole]


def test_what_is_in_the_cache_is_not_made_again(generated, rollouts, tmp_path):
    asked = []

    def propose(chunk):
        asked.append([w.rollout.rollout_id for w in chunk])
        return of_each(generated, [w.rollout for w in chunk])

    def ask(some):
        cache = RowCache(tmp_path)
        key = lambda w: w.rollout.rollout_id  # noqa: E731
        crew = looking_first(cache, key, Proposal, alone(propose))
        [(_, rows)] = crew(iter([(0, work(some))]))
        return rows

    assert ask(rollouts[1:3]) == of_each(generated, rollouts[1:3])
    assert ask(rollouts) == of_each(generated, rollouts)
    first, second = ([r.rollout_id for r in some] for some in (rollouts[1:3], rollouts))
    assert asked == [first, [second[0], *second[3:]]]
    assert ask(rollouts) == of_each(generated, rollouts)
    assert len(asked) == 2


def two_at_a_time(make):
    """A crew of two, of whom the later one is always done first."""

    def crew(chunks):
        held = []
        for index, chunk in chunks:
            held.append((index, make(chunk) if chunk else []))
            if len(held) == 2:
                yield held.pop()
        yield from reversed(held)

    return crew


def test_a_crew_fills_what_one_maker_would_in_whatever_order(
    generated, rollouts, tmp_path, monkeypatch
):
    monkeypatch.setattr(outcomes, "CHUNK_ROLLOUTS", 1)
    order, seen = [], []
    append = outcomes.append_shard

    def spy(folder, index, rows):
        order.append(index)
        return append(folder, index, rows)

    monkeypatch.setattr(outcomes, "append_shard", spy)
    in_shards(
        tmp_path / "shards",
        work(rollouts),
        looking_first(
            RowCache(tmp_path),
            lambda w: w.rollout.rollout_id,
            Proposal,
            two_at_a_time(lambda chunk: of_each(generated, [w.rollout for w in chunk])),
        ),
        progress=lambda done, _: seen.append(done),
    )
    assert order == [1, 2, 3, 4, 0]
    assert seen == [len(rollouts[i].steps) for i in order]
    assert read_shards(tmp_path / "shards", Proposal) == generated
    kept = [RowCache(tmp_path).get(r.rollout_id, Proposal) for r in rollouts]
    assert kept == of_each(generated, rollouts)


def test_a_crew_is_given_nothing_to_do_where_the_cache_has_all(generated, rollouts, tmp_path):
    RowCache(tmp_path).put(
        {r.rollout_id: rows for r, rows in zip(rollouts, of_each(generated, rollouts), strict=True)}
    )
    crew = looking_first(
        RowCache(tmp_path),
        lambda w: w.rollout.rollout_id,
        Proposal,
        alone(lambda chunk: pytest.fail("a model was run")),
    )
    found = list(crew(iter([(3, work(rollouts[:2])), (4, work(rollouts[2:]))])))
    assert found == [(3, of_each(generated, rollouts[:2])), (4, of_each(generated, rollouts[2:]))]


def test_tables_join_to_arrays(generated, rollouts, renderer):
    table = StepTable.of(rollouts)
    kept = {step.step_id for step in table.steps}
    columns = ProposalColumns.of(table, [p for p in generated if p.step_id in kept])
    scores = verifier_scores(SampleAgreement(), rollouts, generated, renderer)
    matrix = score_matrix(columns, scores)
    assert matrix.shape == columns.parsed.shape == (len(kept), 3)
    np.testing.assert_array_equal(np.isnan(matrix), ~columns.parsed)
    assert (columns.acceptable <= columns.parsed).all()
    assert (columns.levels["arguments"] <= columns.same_state).all()


def test_equal_actions_of_a_step_count_once_and_unparsable_ones_never(make):
    rollout = make.rollout([make.say("Done"), make.say("Done")])
    first, second = rollout.each_step()
    rank = [
        make.call("rank", ticket="t1", level="low"),
        make.call("rank", level="low", ticket="t1"),
    ]
    proposals = [
        make.proposal(first, rank[0], None),
        make.proposal(first, rank[1], None, sample=1),  # the same in another order
        make.proposal(first, make.say("Done"), None, sample=2),
        make.proposal(second, make.say("Done"), None),
        make.proposal(second, "broken", None, sample=1),
        make.proposal(second, "broken", None, sample=2),
    ]
    assert outcomes.num_distinct([rollout], proposals) == 3
