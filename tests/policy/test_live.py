"""Live decisions equal the replay's, and pay for what was asked."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from specact_rl.actions.parsing import parse_action
from specact_rl.actions.serialise import action_text
from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ConfigError
from specact_rl.eval.columns import ProposalColumns, StepTable, score_matrix
from specact_rl.eval.outcomes import verifier_scores
from specact_rl.eval.replay import Judged, run_system
from specact_rl.metrics.call_costs import catch_up_tokens
from specact_rl.metrics.cost import ModelSize
from specact_rl.models.language_model import LanguageModel, Sampling, step_prompt
from specact_rl.models.scoring import score_candidates
from specact_rl.models.tiny import train_tokenizer
from specact_rl.policy.calibrators import PlattCalibrator
from specact_rl.policy.live import LiveSystem, ModelCall, TokenLedger
from specact_rl.policy.systems import SYSTEMS, System
from specact_rl.rendering import Renderer
from specact_rl.types import proposal_id
from specact_rl.verifiers import Judgements, SampleAgreement, StrongJudge
from tests import gates
from tests.records import make_proposal
from tests.tiny_models import tiny_config

BROKEN = '<tool_call>\n{"name": '
CHEAP_SIZE, STRONG_SIZE, VERIFIER_SIZE = (
    ModelSize(num_params=n, attention_width=w) for n, w in ((10, 1), (100, 5), (30, 2))
)
GATE_ONLY = System(name="gate only", title="every parsable proposal", proposer="cheap")


@dataclass
class ScriptedModel:
    """Says at each step what was written down for it."""

    model_id: str
    size: ModelSize
    texts: Mapping[str, list[str]]
    renderer: Renderer
    logprob: float | None = -1.0
    asked: list[str] = field(default_factory=list)

    def propose(self, steps, sampling):
        self.asked += [step.step_id for step in steps]
        return [[self.proposal(step, k) for k in range(sampling.num_samples)] for step in steps]

    def proposal(self, step, sample):
        text = self.texts[step.step_id][sample]
        parsed = parse_action(text, step.tools, step.history)
        return make_proposal(
            step,
            parsed.action or text,
            sample=sample,
            model=self.model_id,
            text=text,
            finished=text != BROKEN,
            parse_error=parsed.error,
            label_source="none",
            logprob=self.logprob,
            num_prompt_tokens=len(self.renderer.prompt_ids(step)),
            num_completion_tokens=len(text) + sample,
            seconds=0.5,
        )


def scripted_judgements(items, log_odds):
    lengths = [len(item.prompt.ids) + item.proposal.num_completion_tokens for item in items]
    unparsable = [item.proposal.action is None for item in items]
    values = [log_odds[item.proposal.proposal_id] for item in items]
    return Judgements(
        log_odds=np.where(unparsable, np.nan, values),
        num_tokens=np.array(lengths),
        num_cached_tokens=np.zeros(len(items), dtype=np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class ScriptedVerifier:
    log_odds: Mapping[str, float]
    verifier_id: str = "scripted"
    size: ModelSize = VERIFIER_SIZE

    def judge(self, items):
        return scripted_judgements(items, self.log_odds)


@dataclass(frozen=True, kw_only=True)
class ScriptedJudge(StrongJudge):
    log_odds: Mapping[str, float]

    @property
    def size(self):
        return STRONG_SIZE

    def judge(self, items):
        assert all(self.own[item.step.step_id].model_id == "strong" for item in items)
        return scripted_judgements(items, self.log_odds)


@pytest.fixture(scope="module")
def renderer():
    tokenizer = train_tokenizer(["read file f3 of the ticket t1; done"], 300)
    return Renderer(tokenizer=tokenizer, catalogue="compact")


@pytest.fixture(scope="module")
def rollouts():
    policies = [NoisyExpert(noise=0.3, rng=random.Random(seed)) for seed in range(6)]
    return [run_episode(Workspace(seed), p, "noisy") for seed, p in enumerate(policies)]


@pytest.fixture(scope="module")
def table(rollouts):
    return StepTable.of(rollouts)


def script(steps, seed, num_broken):
    """Three texts a step, of few kinds, so that some are said twice; log-odds with ties."""
    rng = random.Random(seed)
    texts, log_odds = {}, {}
    for step in steps:
        kinds = [action_text(step.reference), "Which file?", "done", *[BROKEN] * num_broken]
        texts[step.step_id] = rng.choices(kinds, k=3)
        for k in range(3):
            key = proposal_id(step.step_id, "cheap", "generate", k)
            log_odds[key] = rng.choice([-1.0, 0.0, 1.0, 2.0, float("nan")])
    return texts, log_odds


def make_gate(verifier_id, threshold):
    calibrator = PlattCalibrator(slope=1.0, intercept=-0.2)
    return gates.make_gate(threshold, calibrator=calibrator, verifier_id=verifier_id)


def make_verifier(system, log_odds, renderer, own):
    if system.verifier is None:
        return None
    if system.verifier == "sample_agreement":
        return SampleAgreement()
    if system.verifier == "strong_judge":
        return ScriptedJudge(
            verifier_id="judge", model=None, renderer=renderer, own=own, log_odds=log_odds
        )
    return ScriptedVerifier(log_odds=log_odds)


def make_system(
    system, table, renderer, *, seed=0, num_broken=1, num_samples=3, threshold=0.5, own=None
):
    cheap_texts, log_odds = script(table.steps, seed, num_broken)
    strong_texts, _ = script(table.steps, seed + 100, num_broken)
    verifier = make_verifier(system, log_odds, renderer, own or {})
    cheap = ScriptedModel("cheap", CHEAP_SIZE, cheap_texts, renderer)
    return LiveSystem(
        system=system,
        strong=ScriptedModel("strong", STRONG_SIZE, strong_texts, renderer),
        proposer=cheap if system.proposer else None,
        verifier=verifier,
        renderer=renderer if verifier else None,
        gate=make_gate(verifier.verifier_id, threshold) if system.gated else None,
        sampling=Sampling(num_samples=num_samples),
    )


def replayed(live, rollouts, table):
    """The same proposals and scores, collected as outcomes and joined."""
    strong = [live.strong.proposal(step, 0) for step in table.steps]
    columns, judged = None, None
    if live.proposer is not None:
        rows = [live.proposer.proposal(step, k) for step in table.steps for k in range(3)]
        columns = ProposalColumns.of(table, rows)
    if live.verifier is not None:
        verifier = live.verifier
        shares_strong = isinstance(verifier, StrongJudge)
        if shares_strong:
            verifier = replace(verifier, own={p.step_id: p for p in strong})
        scores = verifier_scores(verifier, rollouts, rows, live.renderer)
        judged = Judged(
            verifier_id=verifier.verifier_id,
            size=verifier.size,
            shares_strong=shares_strong,
            log_odds=score_matrix(columns, scores),
            seconds=np.zeros((len(table.steps), 3)),
        )
    return run_system(
        live.system,
        table,
        ProposalColumns.of(table, strong),
        STRONG_SIZE,
        columns,
        CHEAP_SIZE,
        judged,
        live.gate,
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["A", "B", "C", "D", "E", "D-nf", "E-nf", "D-agree"])
def test_live_decisions_are_those_of_the_replay(name, seed, rollouts, table, renderer):
    live = make_system(SYSTEMS[name], table, renderer, seed=seed)
    run = replayed(live, rollouts, table)
    decisions = live.decide_steps(table.steps)
    assert [d.accepted for d in decisions] == run.accepted.tolist()
    assert [d.pick or 0 for d in decisions] == run.pick.tolist()
    p_accept = [np.nan if d.p_accept is None else d.p_accept for d in decisions]
    np.testing.assert_array_equal(p_accept, run.p_accept if live.gate else np.nan)
    if live.gate:
        assert 0 < run.accept_rate < 1  # both ways are taken
    for step, decision in zip(table.steps, decisions, strict=True):
        model, sample = (live.proposer, decision.pick) if decision.accepted else (live.strong, 0)
        expected = model.proposal(step, sample)
        assert (decision.text, decision.finished) == (expected.text, expected.finished)
        assert decision.action == expected.action


@pytest.mark.parametrize("name", ["A", "B", "C", "D", "E", "E-nf"])
def test_live_flops_are_those_of_the_replay(name, rollouts, table, renderer):
    system = SYSTEMS[name]
    live = make_system(system, table, renderer, num_samples=system.num_proposals)
    # The replay joins three samples; it charges for those that the system offers.
    run = replayed(live, rollouts, table)
    ledgers = {rollout: TokenLedger() for rollout in set(table.rollouts.tolist())}
    flops = [
        ledgers[rollout].flops(decision.calls)
        for rollout, decision in zip(
            table.rollouts.tolist(), live.decide_steps(table.steps), strict=True
        )
    ]
    assert flops == run.flops.tolist()


def test_steps_decided_together_are_decided_as_alone(table, renderer):
    live = make_system(SYSTEMS["E"], table, renderer)

    def outcome(decisions):
        return [(d.text, d.accepted, d.pick, d.p_accept, d.reason) for d in decisions]

    alone = [live.decide_steps([step])[0] for step in table.steps]
    assert outcome(live.decide_steps(table.steps)) == outcome(alone)


@pytest.mark.parametrize("name", ["D", "E", "D-agree"])
def test_strong_model_is_asked_only_where_the_proposal_is_rejected(name, table, renderer):
    live = make_system(SYSTEMS[name], table, renderer)
    decisions = live.decide_steps(table.steps)
    rejected = [s.step_id for s, d in zip(table.steps, decisions, strict=True) if not d.accepted]
    assert live.strong.asked == rejected
    assert 0 < len(rejected) < len(decisions)
    for decision in decisions:
        roles = [call.role for call in decision.calls]
        assert ("strong" in roles) == (not decision.accepted)


def test_strong_judge_pays_for_its_own_action_at_every_step(table, renderer):
    live = make_system(SYSTEMS["C"], table, renderer, num_broken=0)
    decisions = live.decide_steps(table.steps)
    assert {d.accepted for d in decisions} == {True, False}
    for step, decision in zip(table.steps, decisions, strict=True):
        judged = len(live.proposer.texts[step.step_id][0])
        written = len(live.strong.texts[step.step_id][0])
        paid = sum(sum(call.new_tokens) for call in decision.calls if call.role == "strong")
        assert paid == judged + written  # the judge compares with its own action


@pytest.mark.parametrize("system", [SYSTEMS["C"], SYSTEMS["D"], SYSTEMS["E"], GATE_ONLY])
def test_unparsable_proposal_is_never_accepted(system, table, renderer):
    live = make_system(system, table, renderer, num_broken=3, threshold=0.0)
    offered = system.num_proposals
    nothing = 0
    for step, decision in zip(table.steps, live.decide_steps(table.steps), strict=True):
        assert not (decision.accepted and decision.action is None)
        if all(text == BROKEN for text in live.proposer.texts[step.step_id][:offered]):
            nothing += 1
            assert (decision.accepted, decision.reason) == (False, "unparsable")
            assert decision.p_accept is None
            assert "verifier" not in [call.role for call in decision.calls]
    assert nothing


def test_without_fallback_an_unparsable_proposal_stands_as_no_action(table, renderer):
    live = make_system(SYSTEMS["B"], table, renderer)
    decisions = live.decide_steps(table.steps)
    broken = [d for d in decisions if d.text == BROKEN]
    assert broken
    assert all(d.action is None and d.reason == "no_fallback" for d in broken)
    assert live.strong.asked == []


def test_strong_judge_is_undecided_about_what_the_strong_model_would_do(table, renderer):
    # Its log-odds are log p(proposal) - log p(own action), here of the same action: 0, so that
    # the gate's probability is sigmoid(-0.2).
    step = table.steps[0]
    torch.manual_seed(0)
    config = tiny_config(renderer.tokenizer, num_hidden_layers=1, initializer_range=0.02)
    model = Qwen3ForCausalLM(config).eval()
    completion = renderer.completion_ids(step.reference)
    logprob = score_candidates(model, [step_prompt(renderer, step)], [[completion]])[0][0]
    texts = {step.step_id: [action_text(step.reference)]}
    live = LiveSystem(
        system=SYSTEMS["C"],
        strong=ScriptedModel("strong", STRONG_SIZE, texts, renderer, logprob=float(logprob)),
        proposer=ScriptedModel("cheap", CHEAP_SIZE, texts, renderer),
        verifier=StrongJudge(verifier_id="judge", model=model, renderer=renderer, own={}),
        renderer=renderer,
        gate=make_gate("judge", 0.4),
        sampling=Sampling(),
    )
    decision = live.decide_steps([step])[0]
    assert decision.p_accept == pytest.approx(1 / (1 + np.exp(0.2)), abs=1e-5)
    assert decision.accepted


def test_a_models_prompt_is_read_from_its_last_call_on():
    def call(role, num_prompt_tokens, *new_tokens, width=0):
        return ModelCall(
            role=role,
            size=ModelSize(num_params=1 if role == "proposer" else 10, attention_width=width),
            num_prompt_tokens=num_prompt_tokens,
            new_tokens=new_tokens,
            seconds=0.0,
        )

    ledger = TokenLedger()
    # 2 x 1 x (100 + 5)
    assert ledger.flops([call("proposer", 100, 5)]) == 210
    # 2 x 1 x (30 + 5), and the strong model's first call: 2 x 10 x (130 + 7)
    assert ledger.flops([call("proposer", 130, 5), call("strong", 130, 7)]) == 70 + 2740
    # judge and fallback are one model, which reads the prompt once: 2 x 10 x (20 + 3 + 0 + 4)
    assert ledger.flops([call("strong", 150, 3), call("strong", 150, 4)]) == 540
    # two samples at positions 150 and 151, 150 to 152: 2 x 5 tokens, and attention of width 1 to
    # 151 + 152 and 151 + 152 + 153 tokens at 4 each; the prompt's last 20 attend to 131 to 150
    attended = 151 + 152 + 151 + 152 + 153 + sum(range(131, 151))
    assert ledger.flops([call("proposer", 150, 2, 3, width=1)]) == 2 * 25 + 4 * attended


def test_a_prompt_that_was_cut_is_read_anew_live_as_in_the_replay():
    prompts = [30, 20, 26, 26]
    ledger = TokenLedger()
    calls = [
        ModelCall(
            role="strong",
            size=ModelSize(num_params=1),
            num_prompt_tokens=tokens,
            new_tokens=(),
            seconds=0.0,
        )
        for tokens in prompts
    ]
    found = [ledger.flops([call]) for call in calls]
    assert found == [2 * 30, 2 * 20, 2 * 6, 0]
    once = np.zeros(len(prompts), dtype=np.int64)
    replayed = catch_up_tokens(np.array(prompts), once, np.ones(len(prompts), dtype=bool))
    assert found == (2 * replayed).tolist()


def test_language_model_proposes_what_it_generates(table, renderer):
    torch.manual_seed(0)
    config = tiny_config(renderer.tokenizer, num_hidden_layers=1, initializer_range=0.02)
    lm = LanguageModel(model_id="tiny", model=Qwen3ForCausalLM(config).eval(), renderer=renderer)
    sampling = Sampling(num_samples=2, max_new_tokens=3)
    step = table.steps[0]
    rows = lm.propose([step], sampling)
    assert [p.proposal_id for p in rows[0]] == [
        proposal_id(step.step_id, "tiny", "generate", k) for k in range(2)
    ]
    for p in rows[0]:
        assert p.num_prompt_tokens == len(renderer.prompt_ids(step))
        assert (p.acceptable, p.label_source) == (None, "none")
        assert p.action is None  # three tokens and no end: whatever it says, it was cut off
        assert "stop token" in p.parse_error


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("D", {"proposer": None}, "needs a proposer"),
        ("D", {"gate": None}, "needs a gate"),
        ("D", {"renderer": None}, "needs a renderer"),
        ("D-nf", {"gate": make_gate("scripted", 0.5)}, "has no gate"),
        ("E", {"sampling": Sampling(num_samples=2)}, "offers 3 proposals"),
    ],
)
def test_system_with_the_wrong_parts_is_refused(name, change, message, table, renderer):
    live = make_system(SYSTEMS[name], table, renderer)
    with pytest.raises(ValueError, match=message):
        replace(live, **change)


def test_gate_of_another_verifier_is_refused(table, renderer):
    live = make_system(SYSTEMS["D"], table, renderer)
    with pytest.raises(ConfigError, match="verifier_id"):
        replace(live, gate=make_gate("another", 0.5))


def test_same_step_twice_is_refused(table, renderer):
    live = make_system(SYSTEMS["D"], table, renderer)
    with pytest.raises(ValueError, match="distinct ids"):
        live.decide_steps([table.steps[0], table.steps[0]])
