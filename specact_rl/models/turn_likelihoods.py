"""What a model with an adapter makes of given turns: likelihood, and how far it is from its base.

Exact over the whole vocabulary. The base is the same model with its adapter off, so that over
4-bit weights it is the 4-bit base. Its states are kept, not its logits, which do not fit memory
at a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from specact_rl.models.prefix import ModelParts
from specact_rl.models.scoring import MAX_LOGITS, continuation_states
from specact_rl.rendering import StepPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLikelihood:
    """One turn under a model, in nats, stop token included."""

    num_tokens: int
    nll: float
    """Sum of -log p over the turn's tokens."""
    stop_nll: float
    """Of the stop token alone; large where ends were not learnt."""
    kl: float
    """Sum over the turn's places of KL(model || base)."""


def turn_states(
    model: PeftModel, prompts: Sequence[StepPrompt], turns: Sequence[Sequence[int]]
) -> Tensor:
    """Last hidden states from which the turns' tokens are predicted, turn after turn.

    Args:
        model: Causal LM in evaluation mode; its adapter counts if it is on.
        prompts: Steps; those of one `RolloutTokens` share its prefix.
        turns: Tokens of one turn per prompt, stop token last.

    Returns:
        Shape (tokens of all turns, hidden size).
    """
    return torch.cat(continuation_states(model, prompts, turns))


@torch.inference_mode()
def turn_likelihoods(
    model: PeftModel,
    turns: Sequence[Sequence[int]],
    states: Tensor,
    base_states: Tensor | None,
) -> list[TurnLikelihood]:
    """Likelihood of each turn, and divergence from the base at its places.

    Args:
        model: Causal LM in evaluation mode; its adapter counts if it is on.
        turns: Tokens of the turns, stop token last.
        states: `turn_states` of the model as it is.
        base_states: The same with its adapter off; None where it is off now, and KL is 0.
    """
    head = ModelParts.of(model).head
    targets = torch.tensor([token for turn in turns for token in turn])
    chunk = max(1, MAX_LOGITS // model.config.get_text_config().vocab_size)
    nll, kl = np.zeros(len(targets)), np.zeros(len(targets))
    for start in range(0, len(targets), chunk):
        here = slice(start, start + chunk)
        ours = head(states[here]).double().log_softmax(-1)
        chosen = targets[here, None].to(ours.device)
        nll[here] = -ours.gather(1, chosen)[:, 0].cpu().numpy()
        if base_states is None:
            continue  # leaving a second disable_adapter would turn the adapter on
        with model.disable_adapter():  # the head may have an adapter, too
            theirs = head(base_states[here]).double().log_softmax(-1)
        kl[here] = (ours.exp() * (ours - theirs)).sum(-1).cpu().numpy()
    ends = np.cumsum([len(turn) for turn in turns])
    return [
        TurnLikelihood(
            num_tokens=len(turn),
            nll=float(nll[end - len(turn) : end].sum()),
            stop_nll=float(nll[end - 1]),
            kl=float(kl[end - len(turn) : end].sum()),
        )
        for turn, end in zip(turns, ends, strict=True)
    ]
