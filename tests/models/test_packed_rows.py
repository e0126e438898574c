"""Rows in one sequence: every token once, and no row sees another one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specact_rl.models.packed_rows import ATTENTION, PackedRows, run_packed

from .conftest import VOCAB, make_model

ROWS = st.lists(st.lists(st.integers(3, 5), max_size=12), min_size=1, max_size=6)


@pytest.fixture
def runs_lm(plain_lm):
    plain_lm.set_attn_implementation(ATTENTION)
    return plain_lm


def random_rows(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB, n).tolist() for n in lengths]


def states_of(model, rows, min_shared):
    packed = PackedRows.of(rows, min_shared)
    with torch.inference_mode():
        states = run_packed(model, packed)[0]
    return [states[places] for places in packed.places]


@given(ROWS, st.integers(1, 4))
def test_rows_can_be_read_back_with_their_positions(rows, min_shared):
    packed = PackedRows.of(rows, min_shared)
    for row, places in zip(rows, packed.places, strict=True):
        assert packed.tokens[places].tolist() == row
        assert packed.positions[places].tolist() == list(range(len(row)))


@given(ROWS, st.integers(1, 4))
def test_what_a_run_sees_is_what_its_row_begins_with(rows, min_shared):
    packed = PackedRows.of(rows, min_shared)
    beginnings = {tuple(row[:n]) for row in rows for n in range(len(row) + 1)}
    for run in packed.runs:
        seen = [
            i
            for number, size in run.context
            for i in range(packed.runs[number].offset, packed.runs[number].offset + size)
        ]
        own = list(range(run.offset, run.offset + run.length))
        assert tuple(packed.tokens[seen + own].tolist()) in beginnings
        assert len(seen) == run.position


@given(ROWS)
def test_packed_tokens_are_the_different_beginnings_of_the_rows(rows):
    beginnings = {tuple(row[: n + 1]) for row in rows for n in range(len(row))}
    assert len(PackedRows.of(rows, min_shared=1).tokens) == len(beginnings)


def test_few_common_tokens_are_not_shared():
    rows = [[3, 4, 5, 6], [3, 4, 7, 8]]
    assert len(PackedRows.of(rows, min_shared=2).tokens) == 6
    assert len(PackedRows.of(rows, min_shared=3).tokens) == 8


def test_a_row_that_another_one_begins_with_adds_nothing_however_short():
    packed = PackedRows.of([[3, 4], [3, 4, 5], [3, 4]], min_shared=16)
    assert packed.tokens.tolist() == [3, 4, 5]
    assert len(packed.runs) == 1


@pytest.mark.parametrize("min_shared", [1, 100], ids=["shared", "apart"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_states_are_those_of_each_row_by_itself(min_shared, dtype, plain_lm):
    first, second, third = random_rows(20, 9, 1)
    rows = [first, first[:12] + second, second, third, [], first[:12] + second[:3] + third]
    model = plain_lm.to(dtype)
    with torch.inference_mode():
        alone = [
            model.model(torch.tensor([row]), use_cache=False).last_hidden_state[0]
            if row
            else torch.zeros(0, model.config.hidden_size)
            for row in rows
        ]
    model.set_attn_implementation(ATTENTION)
    for packed, expected in zip(states_of(model, rows, min_shared), alone, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(packed.float(), expected.float(), atol=tolerance, rtol=tolerance)


def test_a_row_does_not_see_its_neighbours(runs_lm):
    row, other, longer = random_rows(15, 15, 40)
    alone = states_of(runs_lm, [row], 1)[0]
    beside = [[other], [other, longer], [row[:7] + other, longer[:3]], [row, row + other]]
    for rows in beside:
        for order in (rows + [row], [row] + rows):
            states = states_of(runs_lm, order, 1)[order.index(row)]
            torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-5)


def test_without_runs_attention_is_sdpa(runs_lm):
    sdpa = make_model(type(runs_lm), "sdpa", lora=False)
    ids = torch.tensor(random_rows(9, 9))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    with torch.inference_mode():
        torch.testing.assert_close(
            runs_lm(ids, attention_mask=mask).logits, sdpa(ids, attention_mask=mask).logits
        )


def test_model_that_does_not_attend_by_runs_is_refused(plain_lm):
    with pytest.raises(NotImplementedError, match="Qwen3ForCausalLM does not attend by runs"):
        run_packed(plain_lm, PackedRows.of([[3, 4]]))
