"""A causal LM that vLLM runs on a GPU and that is asked for actions.

Prompts are tokens of our own `Renderer`, and text is read from tokens by our own tokenizer: vLLM
sees neither. It keeps prefixes, so that the steps of a rollout and the samples of a step read what
they share once. Written against the sources of vLLM 0.30.0 and tested against a stand-in for it;
nobody has run it on a GPU yet. Knows no labels.

Candidates are not scored here. vLLM gives log-probabilities of a prompt's tokens only to requests
that do not look at its cached prefixes, so that each candidate would read the whole history again,
which `models.scoring` does once for all of them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.chat_client import request_seed
from specact_rl.models.generation import Generation
from specact_rl.models.language_model import Sampling, proposals_of
from specact_rl.models.loading import (
    Dtype,
    actor_parts,
    model_folder,
    model_id,
    proposer_renderer,
    usual_device,
    usual_dtype,
)
from specact_rl.models.names import ModelName
from specact_rl.rendering import Renderer, StepPrompt
from specact_rl.types import Proposal, Rollout

_TEMPERATURES = (0.01, 2.0)
"""vLLM raises what is below to the first, and refuses what is above the second."""
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters that vLLM has room for; one of another rank takes the room of the next."""
_PLAIN_LORA: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    # Other beginnings take something from the base's weights, which peft does again when it loads.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "bias": ("none",),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
}
"""What an adapter's config may say. Of the rest vLLM refuses some, and passes over some in
silence, which would be another model."""


@dataclass(frozen=True, kw_only=True)
class VllmModel:
    """A checkpoint under vLLM, a `Proposer`.

    The engine starts when the first proposal is asked for: a table that is there already costs no
    GPU. Its draws are not those of `LanguageModel`, whose seeds it cannot take; sample 0 is greedy
    in both. A sample depends on its step, its number and the seed, and by rounding on what vLLM
    batched it with, unless the process was started with VLLM_BATCH_INVARIANT=1.
    """

    model_id: str
    """As `LanguageModel` has it: by weights and template."""
    renderer: Renderer
    weights: Path
    """Folder of the whole model."""
    adapter: Path | None = None
    """Folder of the LoRA adapter to it."""
    rank: int | None = None
    """Of the adapter."""
    dtype: Dtype
    max_model_len: int | None = None
    """Longest prompt and completion in tokens; None is as long as the model's config says."""
    gpu_memory: float = 0.9
    """Share of the GPU's memory that vLLM takes for weights and prefixes, in (0, 1]."""

    def __post_init__(self) -> None:
        """Refuse what no engine can be started with."""
        if not 0.0 < self.gpu_memory <= 1.0:
            raise ConfigError(
                f"vLLM's share of GPU memory must be in (0, 1], got {self.gpu_memory!r}"
            )
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError(
                "the longest prompt and completion must be at least 2 tokens, got "
                f"{self.max_model_len!r}"
            )

    @classmethod
    def load(cls, name: str | Path, *, dtype: Dtype | None = None, **options: Any) -> Self:
        """A named checkpoint, its prompts rendered as `LanguageModel.load` does.

        Args:
            name: Folder, hub id or `id@revision` of a whole model or a LoRA adapter.
            dtype: None is what `usual_dtype` says of the device.
            **options: Fields.

        Raises:
            ConfigError: vLLM is not installed, or an option is out of range.
            ModelError: It cannot be had, is no causal LM, or a verifier, or a folder that does not
                say how its prompts are rendered; or an adapter of a kind that vLLM does not apply.
        """
        _import_vllm()
        found = ModelName.parse(name)
        folder = model_folder(name).resolve()  # which vLLM's processes find from anywhere
        renderer = proposer_renderer(found, folder)
        weights, adapter = actor_parts(folder)
        if adapter is not None:
            _check_plain(folder, adapter)
            options |= {"adapter": folder, "rank": adapter["r"]}
        return cls(
            model_id=model_id(folder, renderer, found.short),
            renderer=renderer,
            weights=weights,
            dtype=dtype or usual_dtype(usual_device()),
            **options,
        )

    @property
    def origin(self) -> dict[str, Any]:
        """Whose rows these are: another engine, or another version of it, gives others."""
        return {
            "engine": "vllm",
            "engine_version": str(_import_vllm().__version__),
            "dtype": self.dtype,
        }

    def keeping(self, path: Path) -> Self:
        """Itself: to propose again costs time only."""
        return self

    def propose_over(self, rollouts: Sequence[Rollout], sampling: Sampling) -> list[list[Proposal]]:
        """Unlabelled proposals at each step of the rollouts.

        Raises:
            ConfigError: Proposals must be distinct, which is not vLLM's way, or are drawn at a
                temperature that it does not take.
            ModelError: The engine does not start or fails, or a prompt is too long for it.
        """
        _check_sampling(sampling)
        steps = [step for rollout in rollouts for step in rollout.each_step()]
        prompts = [p for rollout in rollouts for p in self.renderer.rollout_ids(rollout).prompts()]
        self._check_lengths(prompts, sampling.max_new_tokens)
        started = time.perf_counter()  # the engine runs: its start is no proposal's time
        generations = self._generate(prompts, sampling)
        seconds = time.perf_counter() - started
        return proposals_of(self.model_id, steps, generations, seconds)

    def _generate(
        self, prompts: Sequence[StepPrompt], sampling: Sampling
    ) -> list[list[Generation]]:
        """Per prompt, `sampling.num_samples` turns, each asked for with a seed of its own."""
        engine = self._engine
        ids = [prompt.ids for prompt in prompts]
        wanted = [(place, k) for place in range(len(ids)) for k in range(sampling.num_samples)]
        with self._failing("answer"):
            outputs = engine.generate(
                [{"prompt_token_ids": ids[place]} for place, _ in wanted],
                [self._params(prompts[place], k, sampling) for place, k in wanted],
                lora_request=self._lora_request(),
                use_tqdm=False,
            )
            turns = iter([self._turn(output) for output in outputs])
        return [[next(turns) for _ in range(sampling.num_samples)] for _ in ids]

    @cached_property
    def _engine(self) -> Any:
        """The `vllm.LLM`."""
        for_adapter = {}
        if self.rank is not None:
            room = min(rank for rank in _RANKS if rank >= self.rank)
            for_adapter = {"enable_lora": True, "max_lora_rank": room}
        with self._failing("start"):
            return _import_vllm().LLM(
                model=str(self.weights),
                # Neither its tokenizer nor its template is asked for anything.
                skip_tokenizer_init=True,
                load_format="safetensors",
                trust_remote_code=False,
                dtype=self.dtype,
                max_model_len=self.max_model_len,
                gpu_memory_utilization=self.gpu_memory,
                enable_prefix_caching=True,
                logprobs_mode="raw_logprobs",  # under the model itself, at temperature 1
                **for_adapter,
            )

    def _params(self, prompt: StepPrompt, sample: int, sampling: Sampling) -> Any:
        return _import_vllm().SamplingParams(
            temperature=0.0 if sample == 0 else sampling.temperature,
            seed=request_seed(sampling.seed, prompt.step_id, sample),
            max_tokens=sampling.max_new_tokens,
            # Not what the model's config says, which vLLM takes for further stop tokens.
            ignore_eos=True,
            stop_token_ids=[self._stop],
            logprobs=0,  # of the token that was taken, and no other
            detokenize=False,
        )

    def _lora_request(self) -> Any:
        if self.adapter is None:
            return None
        _import_vllm()
        from vllm.lora.request import LoRARequest

        return LoRARequest(self.model_id, 1, str(self.adapter))

    def _turn(self, output: Any) -> Generation:
        (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length"):
            raise ValueError(f"a request ended by {completion.finish_reason!r}")
        ids = list(completion.token_ids)
        finished = ids[-1] == self._stop
        found = zip(ids, completion.logprobs, strict=True)
        return Generation(
            text=str(self.renderer.tokenizer.decode(ids[:-1] if finished else ids)),
            token_ids=ids,
            logprob=math.fsum(of_place[token].logprob for token, of_place in found),
            num_prompt_tokens=len(output.prompt_token_ids),
            num_cached_tokens=output.num_cached_tokens or 0,
            num_completion_tokens=len(ids),
            finished=finished,
        )

    @property
    def _stop(self) -> int:
        stop = self.renderer.tokenizer.eos_token_id
        assert isinstance(stop, int)  # a renderer has one
        return stop

    def _check_lengths(self, prompts: Sequence[StepPrompt], max_new_tokens: int) -> None:
        """Refuse what vLLM would cut off before `max_new_tokens`."""
        limit = int(self._engine.model_config.max_model_len)
        for prompt in prompts:
            length = len(prompt.ids)
            if length + max_new_tokens > limit:
                raise ModelError(
                    f"step {prompt.step_id!r}: prompt and proposal must have at most {limit} "
                    f"tokens together under vLLM, got {length} and up to {max_new_tokens}. Raise "
                    "--max-model-len as far as the model goes, lower --max-new-tokens, or use "
                    "engine 'local'"
                )

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Says of an error inside, of whatever type, whose it is."""
        try:
            yield
        except Exception as error:
            raise ModelError(
                f"vLLM {_import_vllm().__version__} must {what} for {self.weights} but failed: "
                f"{type(error).__name__}: {error}. It needs a GPU whose memory is free: see what "
                "it logged, lower --gpu-memory or --max-model-len, or use engine 'local'"
            ) from error


def _check_sampling(sampling: Sampling) -> None:
    if sampling.num_samples == 1:
        return
    if sampling.distinct:
        raise ConfigError(
            "vLLM draws its samples one by one, so that they cannot be made distinct; leave that "
            "out, or use engine 'local'"
        )
    lowest, highest = _TEMPERATURES
    if not lowest <= sampling.temperature <= highest:
        raise ConfigError(
            f"temperature must be in [{lowest:g}, {highest:g}] under vLLM, got "
            f"{sampling.temperature!r}; use engine 'local' for others"
        )


def _check_plain(folder: Path, adapter: dict[str, Any]) -> None:
    for name, allowed in _PLAIN_LORA.items():
        if name in adapter and adapter[name] not in allowed:
            raise ModelError(
                f"{folder}: {name} of an adapter must be {allowed[0]!r} for vLLM to apply it, got "
                f"{adapter[name]!r}; merge it into its base, or use engine 'local'"
            )
    if not 1 <= adapter["r"] <= _RANKS[-1]:
        raise ModelError(
            f"{folder}: r of an adapter must be at most {_RANKS[-1]} for vLLM to apply it, got "
            f"{adapter['r']!r}; merge it into its base, or use engine 'local'"
        )


def _import_vllm() -> Any:
    # Read by vLLM: it must report its use to nobody, and leave stdout to results.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        # Imported here: few have it, and it takes seconds.
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"engine 'vllm' must have vLLM, which cannot be imported ({error}); on a machine with "
            "a GPU pip install \"specact_rl[vllm]\", or use engine 'local'"
        ) from error
    return vllm
