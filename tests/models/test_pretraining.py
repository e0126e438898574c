"""Which tokens of the corpus are learned, and one optimizer that is two."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from specact_rl.actions.serialise import action_text
from specact_rl.envs.episodes import Episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ModelError
from specact_rl.models.pretraining import (
    IGNORED,
    MuonWithAdamW,
    PadCollator,
    corpus_row,
    corpus_texts,
)
from specact_rl.models.tiny import STOP_TOKEN, train_tokenizer
from specact_rl.rendering import Renderer

# Labels


@pytest.fixture(scope="module")
def rollout():
    """Good, a pointless question, good, the first action over again, and good to the end."""
    episode = Episode(Workspace(0), "clumsy", 0)
    first = episode.env.expert_action()
    episode.act(first)
    episode.act(Workspace.text_action("Which colour?"))
    episode.act(episode.env.expert_action())
    episode.act(first)
    while not episode.env.done:
        episode.act(episode.env.expert_action())
    return episode.rollout()


@pytest.fixture(scope="module")
def renderer(rollout):
    return Renderer(tokenizer=train_tokenizer(corpus_texts(rollout), 400), catalogue="compact")


def ignored_texts(renderer, row):
    """Each unbroken run of tokens without loss, as text."""
    runs = []
    previous = None
    for place, (token, label) in enumerate(zip(row["input_ids"], row["labels"], strict=True)):
        if label == IGNORED:
            if previous != place - 1:
                runs.append([])
            runs[-1].append(token)
            previous = place
    return [renderer.tokenizer.decode(run) for run in runs]


@pytest.fixture(scope="module")
def system_turn(rollout, renderer):
    text = renderer.prompt_text(rollout.step(0))
    assert text.startswith("<|im_start|>system\n")
    return text[: text.index(STOP_TOKEN)] + STOP_TOKEN


def test_clumsy_turns_and_the_catalogue_are_without_loss_and_nothing_else_is(
    rollout, renderer, system_turn
):
    assert [step.acceptable for step in rollout.steps[:5]] == [True, False, True, False, True]
    row = corpus_row(renderer, rollout)
    first = action_text(rollout.steps[0].executed)
    clumsy = [f"\n<|im_start|>assistant\n{text}{STOP_TOKEN}" for text in ("Which colour?", first)]
    assert ignored_texts(renderer, row) == [system_turn, *clumsy]
    assert row["input_ids"] == renderer.conversation_ids(rollout)
    both = zip(row["input_ids"], row["labels"], strict=True)
    assert all(label in (token, IGNORED) for token, label in both)


def test_turns_of_unknown_worth_are_learned(rollout, renderer, system_turn):
    unknown = replace(rollout, steps=[replace(step, acceptable=None) for step in rollout.steps])
    assert ignored_texts(renderer, corpus_row(renderer, unknown)) == [system_turn]


def test_messages_that_are_rendered_as_one_turn_are_refused(rollout, renderer):
    result = next(i for i, message in enumerate(rollout.messages) if message["role"] == "tool")
    twice = [*rollout.messages[: result + 1], *rollout.messages[result:]]
    with pytest.raises(ModelError, match="must be rendered as one turn"):
        corpus_row(renderer, replace(rollout, messages=twice))


def test_tokenizer_learns_from_pieces_of_the_rendered_conversation(rollout, renderer):
    whole = renderer.tokenizer.decode(renderer.conversation_ids(rollout))
    texts = list(corpus_texts(rollout))
    assert all(text in whole for text in texts)
    tools = {step.executed.tool for step in rollout.steps} - {None}
    assert {name for name in tools if any(f'"name": "{name}"' in text for text in texts)} == tools


def test_padding_is_without_loss():
    rows = [{"input_ids": [5, 6, 7], "labels": [5, IGNORED, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = PadCollator(pad_token_id=1)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch["labels"].tolist() == [[5, IGNORED, 7], [8, IGNORED, IGNORED]]


# Optimizer

MUON_LR, LR = 0.02, 1e-3


def set_gradients(model, step):
    """The same for every copy of a model."""
    generator = torch.Generator().manual_seed(step)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def train(model, optimizer, steps):
    for step in steps:
        set_gradients(model, step)
        optimizer.step()


def is_layer_matrix(name):
    return name.endswith("_proj.weight")


def test_steps_are_those_of_muon_on_the_layers_and_of_adamw_on_the_rest(plain_lm):
    apart = copy.deepcopy(plain_lm)
    weights = dict(apart.named_parameters())
    matrices = [weight for name, weight in weights.items() if is_layer_matrix(name)]
    others = [weight for name, weight in weights.items() if not is_layer_matrix(name)]
    # A layer has q, k, v, o and gate, up, down; the rest are its four norms, the embeddings (the
    # head is the same weight) and the last norm.
    assert (len(matrices), len(others)) == (2 * 7, 2 * 4 + 2)
    muon = torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01)
    adamw = torch.optim.AdamW(others, lr=LR, betas=(0.9, 0.98), weight_decay=0.0)
    both = MuonWithAdamW(plain_lm, muon_lr=MUON_LR, lr=LR)
    for step in range(3):
        train(plain_lm, both, [step])
        set_gradients(apart, step)
        muon.step()
        adamw.step()
        torch.testing.assert_close(dict(plain_lm.named_parameters()), weights)


def test_schedule_moves_both_rates_alike(plain_lm):
    both = MuonWithAdamW(plain_lm, muon_lr=MUON_LR, lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: [1.0, 0.0][step])
    train(plain_lm, both, [0])
    schedule.step()
    assert [group["lr"] for group in both.param_groups] == [0.0, 0.0]
    before = parameters_to_vector(plain_lm.parameters()).clone()
    train(plain_lm, both, [1])
    assert torch.equal(parameters_to_vector(plain_lm.parameters()), before)


def test_every_weight_is_in_one_group_and_tied_embeddings_are_too(plain_lm):
    both = MuonWithAdamW(plain_lm, muon_lr=MUON_LR, lr=LR)
    matrices, others = (group["params"] for group in both.param_groups)
    embeddings = plain_lm.get_input_embeddings().weight
    assert plain_lm.get_output_embeddings().weight is embeddings
    assert sum(weight is embeddings for weight in others) == 1
    assert not any(weight is embeddings for weight in matrices)
    grouped = [id(weight) for weight in (*matrices, *others)]
    assert sorted(grouped) == sorted(id(weight) for weight in plain_lm.parameters())


def test_resumed_run_goes_on_as_if_it_had_not_stopped(plain_lm):
    both = MuonWithAdamW(plain_lm, muon_lr=MUON_LR, lr=LR)
    train(plain_lm, both, [0, 1])
    resumed = copy.deepcopy(plain_lm)
    file = io.BytesIO()
    torch.save(both.state_dict(), file)
    file.seek(0)
    # Other rates, which the saved ones replace.
    again = MuonWithAdamW(resumed, muon_lr=1.0, lr=1.0)
    again.load_state_dict(torch.load(file))
    train(plain_lm, both, [2, 3])
    train(resumed, again, [2, 3])
    for ours, theirs in zip(plain_lm.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    # What it would be without the state differs, so the state was used.
    fresh = MuonWithAdamW(resumed, muon_lr=MUON_LR, lr=LR)
    train(plain_lm, both, [4])
    train(resumed, fresh, [4])
    ours, theirs = (parameters_to_vector(m.parameters()) for m in (plain_lm, resumed))
    assert not torch.equal(ours, theirs)


def test_closure_is_refused(plain_lm):
    with pytest.raises(ValueError, match="no closure"):
        MuonWithAdamW(plain_lm, muon_lr=MUON_LR, lr=LR).step(lambda: 0.0)
