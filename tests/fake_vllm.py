"""A stand-in for vLLM 0.30.0: what we use of it, computed by transformers on a CPU.

Names, defaults, checks and results are those that its sources have. What we do not use is not
there, and an argument that is not there is an error, as it is in vLLM.
"""

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import torch
import trl  # noqa: F401 - looks for vLLM while it is imported, and would patch this one
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

BLOCK = 16
"""Tokens that the cache of prefixes keeps together."""
ENGINE_ARGS = {
    "load_format": "auto",
    "max_model_len": None,
    "enable_prefix_caching": None,
    "logprobs_mode": "raw_logprobs",
    "enable_lora": False,
    "max_lora_rank": 16,
}
"""Those that `LLM` hands on."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class VLLMValidationError(Exception):
    pass


@dataclass
class SamplingParams:
    temperature: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self):
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if not 0.0 <= self.temperature <= 2.0:
            raise VLLMValidationError(f"temperature must be in [0, 2], got {self.temperature}.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise VLLMValidationError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if self.logprobs is not None and self.logprobs < -1:
            raise VLLMValidationError(f"logprobs must be non-negative or -1, got {self.logprobs}.")
        self.stop_token_ids = list(self.stop_token_ids or [])


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self):
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path, "lora_path cannot be empty"


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: None
    outputs: list[CompletionOutput]
    finished: bool
    lora_request: LoRARequest | None = None
    num_cached_tokens: int | None = None


@dataclass
class ModelConfig:
    max_model_len: int


@dataclass
class _Log:
    """For tests to look at."""

    engines: list = field(default_factory=list)
    """Arguments of each that was started."""
    requests: list = field(default_factory=list)
    """(SamplingParams, RequestOutput) of each that was answered."""


class LLM:
    log: _Log

    def __init__(
        self,
        model,
        *,
        skip_tokenizer_init=False,
        trust_remote_code=False,
        dtype="auto",
        gpu_memory_utilization=0.92,
        **kwargs,
    ):
        unknown = sorted(set(kwargs) - set(ENGINE_ARGS))
        if unknown:
            raise TypeError(
                f"EngineArgs.__init__() got an unexpected keyword argument {unknown[0]!r}"
            )
        self._args = ENGINE_ARGS | kwargs
        self._has_tokenizer = not skip_tokenizer_init
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        longest = self._args["max_model_len"] or config.max_position_embeddings
        if longest > config.max_position_embeddings:
            raise ValueError(
                f"User-specified max_model_len ({longest}) is greater than the derived one"
            )
        if self._args["max_lora_rank"] not in RANKS:
            raise ValueError(f"max_lora_rank: Input should be one of {RANKS}")
        if dtype == "auto":
            dtype = {torch.float32: "float16"}.get(config.dtype, str(config.dtype)[6:])
        self.model_config = ModelConfig(max_model_len=longest)
        self._folder, self._dtype = model, getattr(torch, dtype)
        self._models, self._blocks, self._requests = {}, set(), 0
        has_own = Path(model, "generation_config.json").is_file()
        found = (GenerationConfig.from_pretrained(model) if has_own else config).eos_token_id
        self._eos = set(found if isinstance(found, list) else [found])
        used = {"model": model, "gpu_memory_utilization": gpu_memory_utilization, "dtype": dtype}
        self.log.engines.append(self._args | used)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        prompts = [prompts] if isinstance(prompts, dict | str) else prompts
        if not isinstance(sampling_params, list):
            sampling_params = [sampling_params or SamplingParams()] * len(prompts)
        if len(sampling_params) != len(prompts):
            raise VLLMValidationError(
                f"The lengths of prompts ({len(prompts)}) and params ({len(sampling_params)}) must "
                "be the same."
            )
        if lora_request is not None and not self._args["enable_lora"]:
            raise VLLMValidationError(f"Got lora_request {lora_request} but LoRA is not enabled!")
        return [
            self._answer(prompt, params, lora_request)
            for prompt, params in zip(prompts, sampling_params, strict=True)
        ]

    def _answer(self, prompt, params, lora):
        if not isinstance(prompt, dict):
            raise ValueError("Tokenizer not available when `skip_tokenizer_init=True`")
        ids = prompt["prompt_token_ids"]
        limit = self.model_config.max_model_len
        if not ids or len(ids) >= limit:
            raise VLLMValidationError(
                f"The decoder prompt (length {len(ids)}) plus the number of requested output "
                f"tokens (at least 1) is longer than the maximum model length of {limit}."
            )
        cached = self._cached(ids, lora)
        completion = self._complete(ids, params, self._model(lora))
        self._keep([*ids, *completion.token_ids[:-1]], lora)
        output = RequestOutput(
            request_id=str(self._requests),
            prompt=None,
            prompt_token_ids=ids,
            prompt_logprobs=None,
            outputs=[completion],
            finished=True,
            lora_request=lora,
            num_cached_tokens=cached,
        )
        self._requests += 1
        self.log.requests.append((params, output))
        return output

    @torch.no_grad()
    def _complete(self, ids, params, model):
        draws = None
        if params.seed is not None:
            draws = torch.Generator().manual_seed(params.seed)
        stops = set(params.stop_token_ids) | (set() if params.ignore_eos else self._eos)
        cache, new, tokens, logprobs = None, ids, [], []
        while True:
            step = model(input_ids=torch.tensor([new]), past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            raw = step.logits[0, -1].float()
            greedy = params.temperature < 1e-5
            processed = raw if greedy else raw / params.temperature
            chances = processed.softmax(-1)
            token = int(raw.argmax() if greedy else torch.multinomial(chances, 1, generator=draws))
            told = raw if self._args["logprobs_mode"] == "raw_logprobs" else processed
            logprobs.append(_logprobs(told.log_softmax(-1), token, params.logprobs))
            tokens.append(token)
            new = [token]
            length = len(ids) + len(tokens)
            if token in stops:
                reason = "stop"
                break
            if len(tokens) == params.max_tokens or length >= self.model_config.max_model_len:
                reason = "length"
                break
        asked = params.logprobs is not None
        own = (of_place[token].logprob for of_place, token in zip(logprobs, tokens, strict=True))
        return CompletionOutput(
            index=0,
            text="",  # there is no tokenizer
            token_ids=tokens,
            cumulative_logprob=sum(own) if asked else None,
            logprobs=logprobs if asked else None,
            finish_reason=reason,
            stop_reason=token if reason == "stop" else None,
        )

    def _model(self, lora):
        name = None if lora is None else lora.lora_name
        if name not in self._models:
            model = AutoModelForCausalLM.from_pretrained(self._folder, dtype=self._dtype)
            if lora is not None:
                model = PeftModel.from_pretrained(model, lora.lora_path)
                rank, room = model.peft_config["default"].r, self._args["max_lora_rank"]
                if rank > room:
                    raise ValueError(f"LoRA rank {rank} is greater than max_lora_rank {room}.")
            self._models[name] = model.eval()
        return self._models[name]

    def _cached(self, ids, lora):
        """Blocks that are kept, short of the last token, whose logits are needed."""
        if self._args["enable_prefix_caching"] is False:
            return 0
        ends = range(BLOCK, len(ids), BLOCK)
        return max((end for end in ends if self._block(ids[:end], lora) in self._blocks), default=0)

    def _keep(self, ids, lora):
        for end in range(BLOCK, len(ids) + 1, BLOCK):
            self._blocks.add(self._block(ids[:end], lora))

    def _block(self, ids, lora):
        return (None if lora is None else lora.lora_name, *ids)


def _logprobs(logprobs, token, count):
    """Of the token that was taken, and of the likeliest besides."""
    top = logprobs.topk(count).indices.tolist() if count else []
    ranks = {t: int((logprobs > logprobs[t]).sum()) + 1 for t in [token, *top]}
    return {t: Logprob(logprob=float(logprobs[t]), rank=rank) for t, rank in ranks.items()}


def install(monkeypatch, version="0.30.0"):
    """Put it where `import vllm` finds it; returns its log."""
    log = _Log()
    package, lora, request = (ModuleType(n) for n in ("vllm", "vllm.lora", "vllm.lora.request"))
    package.__version__ = version
    package.LLM = type("LLM", (LLM,), {"log": log})
    package.SamplingParams = SamplingParams
    package.lora, lora.request, request.LoRARequest = lora, request, LoRARequest
    for module in (package, lora, request):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return log
