"""How many floating point operations a training, a reading or a writing takes, by arithmetic.

2 for each weight and token, forward; attention as `metrics.cost.ModelSize` counts it. The output
embedding is counted where it is read. What checkpointing computes again, norms and activations are
left out. Knows no device and loads no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import FloatArray, IntArray
from specact_rl.models.memory import num_adapter_params, num_linear_params
from specact_rl.models.scoring import TokenTree
from specact_rl.types import Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """FLOPs of what a model computes: tokens through its layers, states through its head."""

    layers: ModelSize
    head: int
    """Weights of the output embedding; 0 for a classifier, whose own is too small to count."""
    adapters: int
    """Weights of LoRA; 0 where all weights are trained."""

    @classmethod
    def of(cls, config: PreTrainedConfig, *, lora_r: int | None, classifier: bool = False) -> Work:
        """Of this shape.

        Args:
            config: Of a Qwen3.
            lora_r: Rank of adapters in training; None trains all weights.
            classifier: No vocabulary is read.

        Raises:
            ModelError: Another architecture than Qwen3.
        """
        linear = num_linear_params(config)
        width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
        return cls(
            layers=ModelSize(num_params=linear, attention_width=width),
            head=0 if classifier else config.vocab_size * config.hidden_size,
            adapters=0 if lora_r is None else num_adapter_params(config, lora_r),
        )

    def forward(self, start: IntArray, stop: IntArray, num_predicted: IntArray) -> FloatArray:
        """FLOPs of each row's tokens at positions [start, stop), after what is cached.

        Args:
            start: Tokens of each row that are cached.
            stop: Tokens of each row.
            num_predicted: Tokens of each row whose probability is wanted.
        """
        return np.asarray(self.layers.flops(start, stop) + 2 * self.head * num_predicted, float)

    def training(self, lengths: IntArray, num_predicted: IntArray) -> FloatArray:
        """FLOPs of each row forward and backward, once.

        The backward pass costs the forward once for the gradients of the inputs and, where weights
        are trained, once more for theirs; of attention, which has no weights, always twice.
        """
        forward = self.forward(0 * lengths, lengths, num_predicted)
        if not self.adapters:
            return 3 * forward
        weights = 2 * (self.layers.num_params * lengths + self.head * num_predicted)
        return 3 * forward - weights + 6 * self.adapters * lengths


def branch_flops(
    size: ModelSize, num_cached: int, num_prompt: int, branches: Sequence[Sequence[int]]
) -> int:
    """FLOPs of reading a prompt and what follows it, tokens that branches begin with alike once.

    Args:
        size: Of the model.
        num_cached: Tokens of the prompt that are cached.
        num_prompt: Tokens of the prompt.
        branches: Token ids that the model reads behind it; what it only predicts is not among them.
    """
    total = size.flops(num_cached, num_prompt)
    for depth in TokenTree.of(branches).depths:
        total += size.flops(num_prompt + depth, num_prompt + depth + 1)
    return total


def writing_flops(
    size: ModelSize, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Proposal]
) -> int:
    """FLOPs of writing a step's samples together, what was cached and the last token not read.

    Args:
        size: Of a loaded model, which counts its tokens.
        tokenizer: Its own.
        samples: Of one step, the first first.
    """
    assert samples[0].num_prompt_tokens is not None
    written = [tokenizer.encode(p.text, add_special_tokens=False) for p in samples]
    read = [ids if p.finished else ids[:-1] for p, ids in zip(samples, written, strict=True)]
    return branch_flops(size, samples[0].num_cached_tokens, samples[0].num_prompt_tokens, read)
