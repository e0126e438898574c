"""TRL's SFT and DPO trainers with the same losses for less work.

Both get the loss's log-probabilities from one call of the model (`fused_lm_head=True`), which TRL
puts on it. Here that call packs the batch (`packed_rows`): padding is not computed, what rows begin
with alike is computed once, and the vocabulary is read only where the loss is. Losses, metrics,
batches, optimizer and loop stay TRL's.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from specact_rl.models.packed_rows import ATTENTION, PackedRows, run_packed
from specact_rl.models.prefix import other_attention
from specact_rl.models.training import IGNORED

logger = logging.getLogger(__name__)

_AS_TRL = "batches are computed as TRL does: %s"
_PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingArguments:
    """How a trainer's batches are computed; the loss is the same."""

    pack_batches: bool = field(
        default=True,
        metadata={
            "help": "Compute no padding, common beginnings of rows once, and logits only where the "
            "loss is. False: TRL's own forward."
        },
    )


class PackedSFTTrainer(SFTTrainer):
    """SFTTrainer whose batches are packed."""

    def __init__(self, *args: Any, pack_batches: bool = True, **kwargs: Any) -> None:
        """As SFTTrainer; without `pack_batches` it is nothing else."""
        super().__init__(*args, **kwargs)
        if pack_batches:
            pack_batches_of(self.model)


class PackedDPOTrainer(DPOTrainer):
    """DPOTrainer whose batches are packed, those of the reference included."""

    def __init__(self, *args: Any, pack_batches: bool = True, **kwargs: Any) -> None:
        """As DPOTrainer; without `pack_batches` it is nothing else."""
        self._pack = pack_batches
        super().__init__(*args, **kwargs)
        if pack_batches:
            pack_batches_of(self.model)
            if self.ref_model is not None:
                # The reference is ready for mixed precision by now; the policy will be, over this.
                reference = self.accelerator.unwrap_model(self.ref_model)
                pack_batches_of(reference, precision=self.accelerator.autocast)

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """As DPOTrainer, whose constructor calls it if they are to be computed beforehand."""
        if self._pack:
            pack_batches_of(self.accelerator.unwrap_model(model))
        return super().compute_ref_log_probs(model, inputs)  # type: ignore[no-untyped-call]


def pack_batches_of(
    model: Any, precision: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> bool:
    """Let a model that has TRL's fused head pack its batches from now on.

    Args:
        model: A causal LM, PEFT's or plain.
        precision: Context to compute in; for a model that accelerate has prepared before.

    Returns:
        False if it goes on as it was, which is logged with the reason.
    """
    lm: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if getattr(lm.forward, "packs_batches", False):
        return True
    reason = _why_not(lm)
    if reason:
        logger.info(_AS_TRL, reason)
        return False
    lm.set_attn_implementation(ATTENTION)
    lm.forward = MethodType(_packed_forward(lm.forward, precision), lm)
    return True


def _why_not(lm: Any) -> str | None:
    """Why a model cannot pack its batches; None if it can."""
    config = lm.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"attention is {config._attn_implementation!r}, not 'sdpa'"
    other = other_attention(config)
    if other:
        return f"every layer must have full attention, got {other}"
    parameters = inspect.signature(lm.base_model.forward).parameters.values()
    if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
        return f"{type(lm.base_model).__name__} takes no further inputs"
    if hasattr(config, "output_router_logits"):
        return "experts are balanced over whole batches"
    dropout = sorted(
        name for name, m in lm.named_modules() if isinstance(m, nn.Dropout) and m.p > 0
    )
    if getattr(config, "attention_dropout", 0.0):
        dropout.append("attention_dropout")
    if dropout:
        return f"dropout is drawn token by token, and {dropout[0]} has some"
    return None


def _packed_forward(trl_forward: Any, precision: Callable[[], AbstractContextManager[Any]]) -> Any:
    """TRL's forward, with the fused head over packed rows where a batch can be packed."""

    @functools.wraps(trl_forward.__func__)
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        fused = works and fused_lm_head and not args
        if fused and labels is not None and _can_pack(inputs, labels):
            try:
                with precision():
                    return _fused_output(self, trl_forward, inputs["input_ids"], labels)
            except NotImplementedError as error:
                logger.info(_AS_TRL, error)
                works.clear()
        if labels is not None:
            inputs["labels"] = labels
        return trl_forward(*args, fused_lm_head=fused_lm_head, **inputs)

    works = {True}  # whether the model hands runs to its attention; known after the first batch
    forward.packs_batches = True  # type: ignore[attr-defined]
    return forward


def _can_pack(inputs: Mapping[str, Any], labels: Tensor) -> bool:
    """Whether a batch is rows of tokens, padded on the right, with a loss on some of them."""
    mask: Any = inputs.get("attention_mask")
    given = {name for name, value in inputs.items() if value is not None}  # PEFT names them all
    if given - {"use_cache"} != {"input_ids", "attention_mask"} or mask.shape != labels.shape:
        return False
    return bool((mask[:, 1:] <= mask[:, :-1]).all()) and bool((labels[:, 1:] != IGNORED).any())


def _fused_output(lm: Any, trl_forward: Any, input_ids: Tensor, labels: Tensor) -> Any:
    """What TRL's fused head gives for a padded batch.

    Fields that TRL has per token have its shape (rows, tokens - 1) and its zeros.
    """
    targets = labels[:, 1:]
    scored = (targets != IGNORED).cpu().numpy()
    ids = input_ids.tolist()
    # A token after which nothing is scored has no part in the loss.
    ends = [int(row.nonzero()[0][-1]) + 1 if row.any() else 0 for row in scored]
    packed = PackedRows.of([row[:end] for row, end in zip(ids, ends, strict=True)])
    sources = np.concatenate(
        [at[row[: len(at)]] for row, at in zip(scored, packed.places, strict=True)]
    )
    states = run_packed(lm, packed)[:, torch.from_numpy(sources).to(input_ids.device)]
    mask = targets != IGNORED
    # TRL's head asks its model for the states and the output embedding, for nothing else.
    head = SimpleNamespace(
        base_model=lambda **_: SimpleNamespace(last_hidden_state=states),
        get_output_embeddings=lm.get_output_embeddings,
    )
    output = trl_forward.__func__(head, fused_lm_head=True, shift_labels=targets[mask][None])
    for name in _PER_TOKEN:
        values = getattr(output, name)
        if values is not None:
            setattr(output, name, values.new_zeros(mask.shape).masked_scatter(mask, values))
    return output
