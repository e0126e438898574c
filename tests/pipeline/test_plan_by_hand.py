"""A plan of one rollout of two steps, every number derived by hand."""

import numpy as np
import pytest

from specact_rl.pipeline import plan, servers
from specact_rl.pipeline.plan import RecipeSettings, plan_run
from specact_rl.pipeline.workload import PlannedRollout, Workload
from specact_rl.policy.systems import SYSTEMS
from specact_rl.presets import find_preset

# Of Qwen3 in layers: parameters, width of attention over all of them; of the output embedding.
SHAPES = {
    "1.7B": (28 * 50_331_648, 28 * 16 * 128, 151_936 * 2_048),
    "4B": (36 * 100_925_440, 36 * 32 * 128, 0),  # judges: no vocabulary
    "8B": (36 * 192_937_984, 36 * 32 * 128, 151_936 * 4_096),
}
# 28 layers of rank 16; inputs and outputs of q, k, v, o and the three of the feed-forward part
ADAPTERS = 28 * 16 * (2 * 4_096 + 2 * 3_072 + 3 * 8_192)
PROMPTS, TURN = (100, 200), 10


def flops(shape, tokens, pairs, predicted):
    """2 a weight and token, 4 a pair of positions and unit of width."""
    weights, width, head = SHAPES[shape]
    return 2 * weights * tokens + 4 * width * pairs + 2 * head * predicted


def read(shape, n):
    return flops(shape, n, n * (n + 1) // 2, 0)


def written(shape):
    """Both turns of 10 tokens, the last of which is not fed: they see 101 to 109, 201 to 209."""
    return sum(flops(shape, 9, 9 * n + 45, TURN) for n in PROMPTS)


@pytest.fixture
def planned(monkeypatch):
    rollout = PlannedRollout(
        task_id="t",
        out_of_family=False,
        weight={"train_proposer": 1, "train_verifier": 2, "calibration": 3, "test": 4},
        prompts=np.array(PROMPTS),
        turns=np.array([TURN, TURN]),
        sft=np.array([0, 1]),
        distinct=np.array([0, 1]),
    )
    work = Workload(
        rollouts=[rollout],
        num_tasks=1,
        exact=True,
        tokens_per_candidate=3.0,
        candidates_per_step=4.0,
        test_tasks=2.0,
        ranked_steps=2.0,
    )
    monkeypatch.setattr(plan, "plan_workload", lambda *_: work)
    monkeypatch.setattr(servers, "SYSTEMS", {name: SYSTEMS[name] for name in ("A", "D")})
    return plan_run(
        find_preset("qwen3"), seed=0, device_memory=80_000_000_000, device_rate=792e12
    ).stages


def only(stages, **wanted):
    [found] = [s for s in stages if all(getattr(s, k) == v for k, v in wanted.items())]
    return found


def test_proposing_reads_a_rollout_once_and_writes_each_sample_at_each_step(planned):
    stage = only(planned, stage="cheap proposes")
    rollouts = 2 + 3 + 4  # of the splits that are proposed at
    assert stage.rows == rollouts * 2 * 3
    assert stage.tokens == rollouts * (200 + 3 * 2 * TURN)
    assert stage.flops == pytest.approx(rollouts * (read("1.7B", 200) + 3 * written("1.7B")))


def test_dpo_trains_both_sides_and_passes_them_through_the_reference_once(planned):
    stage = only(planned, what="dpo_proposer: cheap_dpo")
    pairs = 3 * 2 * 2  # strategies, steps, rollouts
    expected = 0
    for n in PROMPTS:
        length = n + TURN
        forward = flops("1.7B", length, length * (length + 1) // 2, TURN)
        # Backward as much for the inputs, once more of attention; of weights only those of LoRA.
        attention = forward - flops("1.7B", length, 0, TURN)
        trained = 2 * forward + attention + 6 * ADAPTERS * length
        reference = forward
        expected += pairs / 2 * 2 * (trained + reference)
    assert stage.rows == pairs
    assert stage.flops == pytest.approx(expected)


@pytest.mark.parametrize(
    ("paired", "single"),
    [("dpo_proposer", "sft_proposer"), ("train_reward_model", "train_verifier")],
)
def test_a_pair_takes_the_memory_of_two_rows(planned, paired, single):
    """Of the same shape, adapters and longest row, in batches that hold as many sequences."""
    settings = {recipe: RecipeSettings.read("qwen3", recipe) for recipe in (paired, single)}
    assert settings[single].batch_size == 2 * settings[paired].batch_size
    [pairs] = [s for s in planned if s.what.startswith(f"{paired}:")]
    [rows] = [s for s in planned if s.what in (f"{single}: cheap", f"{single}: verifier")]
    assert pairs.memory == rows.memory


def test_live_episodes_are_those_of_the_test_tasks_and_ask_whom_each_system_asks(planned):
    stage = only(planned, stage="live episodes")
    tasks = 2
    assert stage.rows == 2 * tasks  # A and D
    asked = ["8B", "1.7B", "4B", "8B"]  # A; D's proposer, verifier and fallback
    assert stage.tokens == tasks * len(asked) * (sum(PROMPTS) + 2 * TURN)
    each = [sum(read(shape, n) for n in PROMPTS) + written(shape) for shape in asked]
    assert stage.flops == pytest.approx(tasks * sum(each))
