"""Log-probabilities and head outputs of continuations of a prompt; every token computed once.

The continuations of one prompt are merged into a tree (tokens they begin with alike are one node)
and go through the model as one row over the rollout's cached prefix, under a mask that lets each
node see the prompt and its own ancestors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from specact_rl.models.kept_prefixes import KeptPrefixes
from specact_rl.models.prefix import (
    ModelParts,
    PrefixBatch,
    additive_mask,
    device_memory,
    max_cache_slots,
    prefix_batches,
)
from specact_rl.rendering import StepPrompt

MAX_MASK_CELLS = 2_000_000
"""Size of the attention mask of a batch, rows x nodes x slots, on a CPU and at least."""
BYTES_PER_MASK_CELL = 2_500
"""Of a GPU's memory for each cell: 16 times as many as on a CPU where it has 80 GB, which made
scoring 1.5 times as fast there (benchmarks/README.md)."""
MAX_LOGITS = 2**25
"""Logits held at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTree:
    """Token sequences with common beginnings merged."""

    tokens: list[int]
    """One per node, parents first."""
    parents: list[int]
    """Parent node; -1 for the prompt's last token."""
    depths: list[int]
    """0 for the first token after the prompt."""
    paths: list[list[int]]
    """Nodes of each sequence, in order."""

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> TokenTree:
        """Merge the sequences."""
        nodes: dict[tuple[int, int], int] = {}
        tree = cls(tokens=[], parents=[], depths=[], paths=[])
        for sequence in sequences:
            path: list[int] = []
            for depth, token in enumerate(sequence):
                parent = path[-1] if path else -1
                node = nodes.setdefault((parent, token), len(nodes))
                if node == len(tree.tokens):
                    tree.tokens.append(token)
                    tree.parents.append(parent)
                    tree.depths.append(depth)
                path.append(node)
            tree.paths.append(path)
        return tree

    def visible(self, size: int) -> np.ndarray:
        """Which node sees which: itself and its ancestors, bool of shape (size, size).

        Rows beyond the tree are padding and see themselves, so that no softmax is empty.
        """
        seen = np.eye(size, dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def score_candidates(
    model: nn.Module,
    prompts: Sequence[StepPrompt],
    candidates: Sequence[Sequence[Sequence[int]]],
    kept: KeptPrefixes | None = None,
) -> list[np.ndarray]:
    """Summed log p(candidate | prompt) in nats, stop token included if the candidate has it.

    Args:
        model: Causal LM in evaluation mode.
        prompts: Steps; those of one `RolloutTokens` share its prefix.
        candidates: Per prompt, token ids of each candidate (`Renderer.completion_ids`).
        kept: As of `prefix_batches`.

    Returns:
        Per prompt, float64 of shape (number of its candidates,).

    Raises:
        ValueError: Lengths differ, or a candidate is empty.
    """
    _check(prompts, candidates)
    parts = ModelParts.of(model)
    # The last token of a candidate is predicted, never fed.
    trees = [TokenTree.of([ids[:-1] for ids in each]) for each in candidates]
    results = [np.zeros(len(each)) for each in candidates]
    for position, states in _tree_states(parts, prompts, trees, kept):
        results[position] = _path_logprobs(
            parts, states, trees[position].paths, candidates[position]
        )
    return results


def forward_continuations(
    model: nn.Module,
    prompts: Sequence[StepPrompt],
    continuations: Sequence[Sequence[Sequence[int]]],
    kept: KeptPrefixes | None = None,
) -> list[Tensor]:
    """The head's output at the last token of each continuation.

    Args:
        model: Causal LM (output over the vocabulary) or sequence classifier (over the labels), in
            evaluation mode.
        prompts: Steps; those of one `RolloutTokens` share its prefix.
        continuations: Per prompt, token ids of what follows it.
        kept: As of `prefix_batches`.

    Returns:
        Per prompt, shape (number of its continuations, vocabulary or labels), float32.

    Raises:
        ValueError: Lengths differ, or a continuation is empty.
    """
    _check(prompts, continuations)
    parts = ModelParts.of(model)
    trees = [TokenTree.of(each) for each in continuations]
    results: list[Tensor] = [torch.empty(0)] * len(prompts)
    for position, states in _tree_states(parts, prompts, trees, kept):
        ends = [1 + path[-1] for path in trees[position].paths]
        with torch.inference_mode():
            results[position] = parts.head(states[ends]).float()
    return results


def continuation_states(
    model: nn.Module, prompts: Sequence[StepPrompt], continuations: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Last hidden states from which the tokens of one continuation per prompt are predicted.

    The first is that of the prompt's last token, whose head output is about the first token.

    Returns:
        Per prompt, shape (tokens of its continuation, hidden size).

    Raises:
        ValueError: Lengths differ, or a continuation is empty.
    """
    _check(prompts, [[ids] for ids in continuations])
    parts = ModelParts.of(model)
    trees = [TokenTree.of([ids[:-1]]) for ids in continuations]
    results: list[Tensor] = [torch.empty(0)] * len(prompts)
    for position, states in _tree_states(parts, prompts, trees):
        results[position] = states
    return results


def classify_continuations(
    model: nn.Module,
    prompts: Sequence[StepPrompt],
    continuations: Sequence[Sequence[Sequence[int]]],
    kept: KeptPrefixes | None = None,
) -> list[np.ndarray]:
    """Label logits of a sequence classifier for each prompt + continuation.

    Returns:
        Per prompt, float64 of shape (number of its continuations, number of labels).
    """
    outputs = forward_continuations(model, prompts, continuations, kept)
    return [output.cpu().numpy().astype(np.float64) for output in outputs]


def _check(prompts: Sequence[StepPrompt], sequences: Sequence[Sequence[Sequence[int]]]) -> None:
    if len(prompts) != len(sequences):
        raise ValueError(f"one list per prompt needed: {len(prompts)} and {len(sequences)}")
    for i, each in enumerate(sequences):
        if not all(len(ids) for ids in each):
            raise ValueError(f"a continuation must have a token; prompt {i} has an empty one")


def _tree_states(
    parts: ModelParts,
    prompts: Sequence[StepPrompt],
    trees: Sequence[TokenTree],
    kept: KeptPrefixes | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Hidden states of all trees, a few prompts of a prefix batch at a time.

    Yields:
        Places of prompts, and their states, shape (1 + num_nodes, hidden_size): row 0 is the
        prompt's last token, row n + 1 the tree's node n.
    """
    cells, slots = max_mask_cells(parts.transformer.device), max_cache_slots(parts)
    for batch in prefix_batches(parts, prompts, kept):
        for chosen in _row_batches(batch, trees, cells, slots):
            positions = [batch.positions[prompt] for prompt in chosen]
            states = _forward_trees(parts, batch, chosen, [trees[p] for p in positions])
            for position, prompt, nodes in zip(positions, chosen, states, strict=True):
                yield position, torch.cat([batch.hidden[prompt][None], nodes])
        del batch  # before the next rollouts are read, whose keys and values take as much


def max_mask_cells(device: torch.device) -> int:
    """Size of the attention mask of a batch on a device."""
    memory = device_memory(device)
    return MAX_MASK_CELLS if memory is None else mask_cells_in(memory)


def mask_cells_in(memory: int) -> int:
    """Size of the attention mask of a batch on a GPU of so many bytes."""
    return max(MAX_MASK_CELLS, memory // BYTES_PER_MASK_CELL)


def _row_batches(
    batch: PrefixBatch, trees: Sequence[TokenTree], max_cells: int, max_slots: int
) -> Iterator[list[int]]:
    sizes = [len(trees[position].tokens) for position in batch.positions]
    # Prompts of like length first, as the longest decides how many slots all rows carry.
    order = sorted(range(len(sizes)), key=lambda p: (batch.lengths[p] // 64, sizes[p]))
    chosen: list[int] = []
    nodes = slots = 0
    for prompt in order:
        wider, longer = max(nodes, sizes[prompt]), max(slots, batch.lengths[prompt])
        carried = (len(chosen) + 1) * (longer + wider)
        if chosen and (carried * wider > max_cells or carried > max_slots):
            yield chosen
            chosen, wider, longer = [], sizes[prompt], batch.lengths[prompt]
        chosen.append(prompt)
        nodes, slots = wider, longer
    if chosen:
        yield chosen


@torch.inference_mode()
def _forward_trees(
    parts: ModelParts, batch: PrefixBatch, chosen: Sequence[int], trees: Sequence[TokenTree]
) -> list[Tensor]:
    size = max(len(tree.tokens) for tree in trees)
    if size == 0:
        return [batch.hidden[:0] for _ in trees]
    tokens = torch.zeros((len(trees), size), dtype=torch.long)
    positions = torch.tensor([batch.lengths[p] for p in chosen])[:, None].repeat(1, size)
    for i, tree in enumerate(trees):
        tokens[i, : len(tree.tokens)] = torch.tensor(tree.tokens, dtype=torch.long)
        positions[i, : len(tree.tokens)] += torch.tensor(tree.depths, dtype=torch.long)
    device = batch.hidden.device
    cache, valid = batch.cache(chosen, num_new=size)
    visible = torch.from_numpy(np.stack([tree.visible(size) for tree in trees])).to(device)
    allowed = torch.cat([valid[:, None, :].expand(-1, size, -1), visible], dim=-1)
    states = parts.transformer(
        input_ids=tokens.to(device),
        attention_mask=additive_mask(allowed, batch.hidden.dtype)[:, None],
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return [states[i, : len(tree.tokens)] for i, tree in enumerate(trees)]


@torch.inference_mode()
def _path_logprobs(
    parts: ModelParts,
    states: Tensor,
    paths: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
) -> np.ndarray:
    """Each candidate's summed log-probability.

    Row 0 of `states` is the prompt's last token, row n + 1 the tree's node n.
    """
    sources = np.array([row for path in paths for row in (0, *(node + 1 for node in path))])
    targets = np.array([token for ids in candidates for token in ids])
    owners = np.repeat(np.arange(len(candidates)), [len(ids) for ids in candidates])
    logprobs = np.zeros(len(targets))
    chunk = max(1, MAX_LOGITS // parts.transformer.config.get_text_config().vocab_size)
    for start in range(0, len(states), chunk):
        table = parts.head(states[start : start + chunk]).float().log_softmax(-1)
        here = np.flatnonzero((sources >= start) & (sources < start + chunk))
        logprobs[here] = table[sources[here] - start, targets[here]].cpu().numpy()
    return np.bincount(owners, weights=logprobs, minlength=len(candidates))
