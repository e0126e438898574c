"""Free generation of actions, several samples per step, over prefixes that are computed once.

A sample depends on the model, its prompt, its step id, its number and the seed; not on which other
rows are in the batch (up to floating-point rounding at the edge between two tokens). Distinct
samples also depend on those before them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from specact_rl.models.kept_prefixes import KeptPrefixes
from specact_rl.models.prefix import (
    ModelParts,
    PrefixBatch,
    additive_mask,
    max_cache_slots,
    num_cached_tokens,
    prefix_batches,
)
from specact_rl.rendering import StepPrompt

MAX_ROWS = 128
"""(step, sample) rows that are decoded together, fewer where their caches would be too large."""

_NOTHING_LEFT = 1e-5
"""Share of a token's chance below which all of it counts as taken: chances that were computed in
two batches differ by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One sampled assistant turn."""

    text: str
    """Without the stop token; other special tokens are kept."""
    token_ids: list[int]
    """With the stop token if there is one."""
    logprob: float
    """Sum over `token_ids` in nats, under the model itself (temperature 1)."""
    num_prompt_tokens: int
    num_cached_tokens: int
    """Prompt tokens that an earlier prompt of the rollout, or sample 0, has paid for, here or in a
    call whose prefixes were kept."""
    num_completion_tokens: int
    finished: bool
    """False if max_new_tokens came before the stop token."""


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[StepPrompt],
    *,
    num_samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    distinct: bool = False,
    max_rows: int = MAX_ROWS,
    kept: KeptPrefixes | None = None,
) -> list[list[Generation]]:
    """Sample turns after each prompt; sample 0 is greedy, further ones are drawn.

    Args:
        model: Causal LM in evaluation mode.
        tokenizer: Its eos_token ends a turn.
        prompts: Steps; those of one `RolloutTokens` share its prefix.
        num_samples: Turns per prompt.
        temperature: Divides the logits of samples from 1 on.
        max_new_tokens: Longest turn, stop token included.
        seed: With step id and sample number, decides the draws.
        distinct: Draw without replacement: what earlier samples of the prompt have taken of the
            distribution over turns is left out, so that no two have the same tokens, as long as
            the model leaves any. Samples are then written one after another.
        max_rows: (step, sample) rows decoded together.
        kept: As of `prefix_batches`.

    Returns:
        Per prompt, `num_samples` turns.
    """
    if num_samples < 1 or max_new_tokens < 1 or temperature <= 0:
        raise ValueError(
            "num_samples, max_new_tokens and temperature must be positive, got "
            f"{num_samples!r}, {max_new_tokens!r} and {temperature!r}"
        )
    parts = ModelParts.of(model)
    stop = tokenizer.eos_token_id
    cached, max_slots = num_cached_tokens(prompts, kept), max_cache_slots(parts)
    results: list[list[Generation]] = [[] for _ in prompts]
    for batch in prefix_batches(parts, prompts, kept):
        lengths = batch.lengths
        turns = [
            [
                _Row(
                    prompt=i,
                    place=place,
                    sample=sample,
                    draws=_uniforms(seed, prompts[place].step_id, sample, max_new_tokens),
                )
                for sample in range(num_samples)
            ]
            # Prompts of like length together: the longest decides how many slots all rows carry.
            for i, place in sorted(enumerate(batch.positions), key=lambda p: lengths[p[0]])
        ]
        rows = [row for samples in turns for row in samples]
        rounds = [rows]
        if distinct:
            rounds = [list(each) for each in zip(*turns, strict=True)]
            for samples in turns:
                for row in samples:
                    row.before = samples[: row.sample]
        for together in rounds:
            for chosen in _decoded_together(batch, together, max_rows, max_slots, max_new_tokens):
                _decode(parts, batch, chosen, max_new_tokens, stop, temperature)
        for row in rows:
            length = batch.lengths[row.prompt]
            results[row.place].append(
                Generation(
                    text=str(tokenizer.decode(row.ids[:-1] if row.finished else row.ids)),
                    token_ids=row.ids,
                    logprob=row.logprob,
                    num_prompt_tokens=length,
                    num_cached_tokens=length if row.sample else cached[row.place],
                    num_completion_tokens=len(row.ids),
                    finished=row.finished,
                )
            )
        del batch  # before the next rollouts are read, whose keys and values take as much
    return results


@dataclass(slots=True, kw_only=True)
class _Row:
    """A turn in the making."""

    prompt: int
    """Index into the prefix batch's prompts."""
    place: int
    """Index into the caller's prompts."""
    sample: int
    draws: np.ndarray
    """Uniform numbers in [0, 1), one per token to come; not used by sample 0."""
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finished: bool = False
    before: Sequence[_Row] | None = None
    """Earlier samples of the prompt, none of which this one may repeat; None: it may."""
    chances: list[float] = field(default_factory=list)
    """Of each token at the temperature, whatever others have taken; [] where nobody asks."""

    def left_over(self, chances: Tensor) -> Tensor:
        """What the samples before it leave of the next token's distribution, shape (vocabulary,).

        A turn that was written takes its whole chance with it: of each of its tokens, that of the
        rest of the turn once the token is there.
        """
        turn, left = len(self.ids), chances.clone()
        for other in self.before or ():
            if len(other.ids) > turn and other.ids[:turn] == self.ids:
                token = other.ids[turn]
                left[token] -= chances[token] * math.prod(other.chances[turn + 1 :])
        # By rounding alone something may be left of what was taken whole.
        left[left < _NOTHING_LEFT * chances] = 0.0
        return left if float(left.sum()) > 0.0 else chances


def _decoded_together(
    batch: PrefixBatch,
    rows: Sequence[_Row],
    max_rows: int,
    max_slots: int,
    max_new_tokens: int,
) -> Iterator[Sequence[_Row]]:
    """The rows, which come in order of length, in parts whose caches fit; one row always does."""
    start = 0
    for stop, row in enumerate(rows):
        carried = (stop + 1 - start) * (batch.lengths[row.prompt] + max_new_tokens)
        if stop > start and (stop - start == max_rows or carried > max_slots):
            yield rows[start:stop]
            start = stop
    yield rows[start:]


@torch.inference_mode()
def _decode(
    parts: ModelParts,
    batch: PrefixBatch,
    rows: Sequence[_Row],
    max_new_tokens: int,
    stop: int,
    temperature: float,
) -> None:
    """Add one token per row and round, until every row has ended.

    Samples of a prompt are one row of the model's batch as long as they have the same tokens.
    """
    groups = [list(each) for _, each in groupby(rows, key=lambda row: row.prompt)]
    prompts = [members[0].prompt for members in groups]
    states = batch.hidden[prompts]
    # The last token is never fed: one slot fewer than tokens.
    cache, valid = batch.cache(prompts, num_new=max_new_tokens - 1)
    slots = valid.shape[1]
    allowed = torch.nn.functional.pad(valid, (0, max_new_tokens - 1), value=True)
    mask = additive_mask(allowed, states.dtype)[:, None, None]
    lengths = torch.tensor([batch.lengths[prompt] for prompt in prompts], device=states.device)
    for turn in range(max_new_tokens):
        active = [row for members in groups for row in members]
        places = [place for place, members in enumerate(groups) for _ in members]
        logits = parts.head(states).float()
        if places != list(range(len(groups))):  # else a copy of the vocabulary for nothing
            logits = logits[places]
        if active:
            _extend(active, logits, turn, stop, temperature)
        del logits
        parted: dict[tuple[int, int], list[_Row]] = {}
        for place, row in zip(places, active, strict=True):
            if not row.finished:
                parted.setdefault((place, row.ids[-1]), []).append(row)
        if not parted or turn == max_new_tokens - 1:
            return
        kept = [place for place, _ in parted]
        # To drop rows copies the cache, so not at each end; to part them cannot wait.
        if len(set(kept)) < len(kept) or len(kept) <= len(groups) // 2:
            chosen = torch.tensor(kept, device=states.device)
            cache.select(chosen)
            mask, lengths = mask[chosen], lengths[chosen]
            groups = list(parted.values())
        else:
            going = dict(zip(kept, parted.values(), strict=True))
            groups = [going.get(place, []) for place in range(len(groups))]
        tokens = [members[0].ids[-1] if members else stop for members in groups]
        states = parts.transformer(
            input_ids=torch.tensor(tokens, device=states.device)[:, None],
            attention_mask=mask[..., : slots + turn + 1],
            position_ids=(lengths + turn)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, 0]


def _extend(rows: Sequence[_Row], logits: Tensor, turn: int, stop: int, temperature: float) -> None:
    """Choose each row's next token and record it."""
    tokens = logits.argmax(-1)
    drawn = [i for i, row in enumerate(rows) if row.sample > 0]
    if rows[0].before is not None:
        chances = (logits.double() / temperature).softmax(-1)
        if drawn:
            left = torch.stack([rows[i].left_over(chances[i]) for i in drawn])
            tokens[drawn] = _drawn([rows[i] for i in drawn], left, turn)
        for row, chance in zip(
            rows, chances.gather(1, tokens[:, None])[:, 0].tolist(), strict=True
        ):
            row.chances.append(chance)
    elif drawn:
        tokens[drawn] = _drawn(
            [rows[i] for i in drawn], (logits[drawn].double() / temperature).softmax(-1), turn
        )
    gained = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
    for row, token, logprob in zip(rows, tokens.tolist(), gained, strict=True):
        row.ids.append(token)
        row.logprob += logprob
        row.finished = token == stop


def _drawn(rows: Sequence[_Row], chances: Tensor, turn: int) -> Tensor:
    """A token for each row by inverse transform, shape (rows,).

    Args:
        rows: With their uniform numbers.
        chances: Of each token, which need not sum to one, shape (rows, vocabulary); in double
            precision, as in single the tail of a large vocabulary drowns.
        turn: Which of the uniform numbers.
    """
    cdf = chances.cumsum(-1)
    draws = torch.tensor([row.draws[turn] for row in rows], device=chances.device)
    found = torch.searchsorted(cdf, draws[:, None] * cdf[:, -1:], right=True)[:, 0]
    return found.clamp(max=chances.shape[-1] - 1)


def _uniforms(seed: int, step_id: str, sample: int, count: int) -> np.ndarray:
    """Numbers that depend on nothing but the arguments; more of them begin alike."""
    digest = hashlib.sha256(f"{step_id}\0{sample}".encode()).digest()
    generator = np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32)])
    return generator.random(count)
