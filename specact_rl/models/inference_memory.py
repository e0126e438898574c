"""How much device memory writing and scoring take, as `generation` and `scoring` go about it.

How many rows go together is bounded by their caches (`prefix.cache_slots_in`), as it is there.
"""

from __future__ import annotations

from transformers import PreTrainedConfig

from specact_rl.models.generation import MAX_ROWS
from specact_rl.models.kept_prefixes import KEPT_BYTES, KEPT_SHARE
from specact_rl.models.loading import Dtype
from specact_rl.models.memory import InferenceMemory, inference_memory, kv_cache_bytes
from specact_rl.models.prefix import MAX_PREFIX_TOKENS, cache_slots_in
from specact_rl.models.scoring import MAX_LOGITS, MAX_MASK_CELLS, mask_cells_in

_VALUE_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


def writing_memory(
    config: PreTrainedConfig,
    *,
    dtype: Dtype,
    longest_prompt: int,
    max_new_tokens: int,
    num_samples: int,
    num_prompts: int,
    num_prefix_tokens: int = MAX_PREFIX_TOKENS,
    device_memory: int | None = None,
) -> InferenceMemory:
    """Of `generation.generate`, if all prompts of a batch are as long as the longest.

    Args:
        config: Of a Qwen3.
        dtype: Of the weights.
        longest_prompt: In tokens.
        max_new_tokens: Longest turn.
        num_samples: Turns of a prompt.
        num_prompts: In all.
        num_prefix_tokens: Of the rollouts that are read at a time.
        device_memory: Bytes of the GPU, which decide how many rows go together; None for a CPU.
    """
    copied = cache_slots_in(device_memory, config, _VALUE_BYTES[dtype])
    fitting = max(1, copied // (longest_prompt + max_new_tokens))
    rows = min(MAX_ROWS, num_prompts * num_samples, fitting)
    # Drawn rows have their logits, and four times in double precision what is made of them; all
    # have the logits in float32.
    drawn = (num_samples - 1) / num_samples
    return inference_memory(
        config,
        value_bytes=_VALUE_BYTES[dtype],
        num_prefix_tokens=max(num_prefix_tokens, longest_prompt),
        num_rows=rows,
        num_slots=longest_prompt,
        num_new=max_new_tokens - 1,
        num_logits=rows * config.vocab_size,
        bytes_per_logit=round(4 + drawn * 16) if num_samples > 1 else 8,
    )


def kept_memory(
    config: PreTrainedConfig, *, dtype: Dtype, num_tokens: int, device_memory: int | None
) -> int:
    """Bytes at most of `prefix.kept_prefixes`, whatever models share the room.

    Args:
        config: Of the largest of them, a Qwen3.
        dtype: Of the weights.
        num_tokens: Of all conversations that go on at a time, in all models.
        device_memory: Bytes of the GPU; None for a CPU.
    """
    room = KEPT_BYTES if device_memory is None else device_memory // KEPT_SHARE
    value_bytes = _VALUE_BYTES[dtype]
    of_token = kv_cache_bytes(config, 1) // 2 * value_bytes + int(config.hidden_size) * value_bytes
    return min(room, num_tokens * of_token)


def scoring_memory(
    config: PreTrainedConfig,
    *,
    dtype: Dtype,
    longest_prompt: int,
    num_nodes: int,
    num_prompts: int,
    steps_per_rollout: int,
    classifier: bool,
    num_prefix_tokens: int = MAX_PREFIX_TOKENS,
    device_memory: int | None = None,
) -> InferenceMemory:
    """Of `scoring`, if all prompts of a batch are as long as the longest.

    Args:
        config: Of a Qwen3.
        dtype: Of the weights.
        longest_prompt: In tokens.
        num_nodes: Tokens of a step's continuations, common beginnings once.
        num_prompts: In all.
        steps_per_rollout: Prompts that share what is read of a rollout.
        classifier: No vocabulary is read.
        num_prefix_tokens: Of the rollouts that are read at a time.
        device_memory: Bytes of the GPU, which decide how many rows go together; None for a CPU.
    """
    nodes = max(1, num_nodes)
    cells = MAX_MASK_CELLS if device_memory is None else mask_cells_in(device_memory)
    copied = cache_slots_in(device_memory, config, _VALUE_BYTES[dtype])
    fitting = max(1, min(cells // nodes, copied) // (longest_prompt + nodes))
    prompts_of_batch = steps_per_rollout * max(1, num_prefix_tokens // longest_prompt)
    return inference_memory(
        config,
        value_bytes=_VALUE_BYTES[dtype],
        num_prefix_tokens=max(num_prefix_tokens, longest_prompt),
        num_rows=min(fitting, num_prompts, prompts_of_batch),
        num_slots=longest_prompt,
        num_new=nodes,
        num_logits=0 if classifier else min(MAX_LOGITS, (nodes + 1) * config.vocab_size),
        bytes_per_logit=8,
    )
