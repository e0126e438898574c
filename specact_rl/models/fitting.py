"""Whether a training can fit its device, found out before it is begun."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from transformers import AutoConfig, PreTrainedConfig, TrainingArguments
from trl.trainer.model_config import ModelConfig

from specact_rl.errors import ConfigError
from specact_rl.models.device import free_device_memory
from specact_rl.models.memory import Head, training_memory

logger = logging.getLogger(__name__)


def device_memory(training: TrainingArguments) -> int | None:
    """Bytes that are free on the device of a training; None where that is no bound, as on a CPU."""
    return free_device_memory() if training.device.type == "cuda" else None


def check_fits_device(
    path: str,
    training: TrainingArguments,
    model: ModelConfig,
    lengths: Sequence[int],
    *,
    sequences: int = 1,
    head: Head = "fused",
) -> None:
    """Refuse a training that cannot fit its device, before weights are loaded.

    LoRA of all linear layers in bf16 or over 4-bit weights, which the qwen3 configs train, is held
    to the whole estimate. Of others only what they cannot do without is counted: weights and,
    where those are trained, gradients and the moments of AdamW.

    Args:
        path: Folder of the model.
        training: The trainer's arguments.
        model: How the model is loaded and adapted.
        lengths: Tokens of each sequence that is trained on.
        sequences: Of a row; 2 for pairs.
        head: How the loss is computed.

    Raises:
        ConfigError: It cannot fit; says what would.
    """
    available = device_memory(training)
    if available is None:
        return
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if config.model_type != "qwen3":
        logger.info("memory of %r is not estimated, so it is not checked", config.model_type)
        return
    settings = _Settings(
        config=config,
        rows=training.per_device_train_batch_size,
        sequences=sequences,
        length=max(lengths),
        head=head,
        value_bytes=4 if model.dtype == "float32" else 2,
        lora_r=model.lora_r if model.use_peft else None,
        load_in_4bit=model.load_in_4bit,
        checkpointing=bool(training.activation_checkpointing),
        estimated=_is_estimated(training, model),
        with_moments=str(getattr(training.optim, "value", training.optim)).startswith(
            "adamw_torch"
        ),
    )
    needed = settings.bytes()
    if needed <= available:
        return
    fitting = [
        f"{words} ({_size(each.bytes())})"
        for words, each in settings.alternatives()
        if each.bytes() <= available
    ]
    advice = (
        f"what would fit: {'; '.join(fitting)}"
        if fitting
        else "4-bit weights, checkpointing and batches of one row do not make it fit: take a "
        "smaller model or a larger device"
    )
    kind = "about" if settings.estimated else "at least"
    raise ConfigError(
        f"training {path} takes {kind} {_size(needed)} for "
        f"batches of {settings.rows} rows of up to {settings.length:,} tokens, but the device has "
        f"{_size(available)} free; {advice}"
    )


def _is_estimated(training: TrainingArguments, model: ModelConfig) -> bool:
    # TRL makes a list of one name that name.
    targets: object = model.lora_target_modules
    everywhere = targets in ("all-linear", ["all-linear"])
    return bool(model.use_peft and everywhere and model.dtype == "bfloat16" and training.bf16)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What decides the memory of a training."""

    config: PreTrainedConfig
    rows: int
    sequences: int
    length: int
    head: Head
    value_bytes: int
    """Of a weight that is not in 4 bits."""
    lora_r: int | None
    load_in_4bit: bool
    checkpointing: bool
    estimated: bool
    """The whole of it is known."""
    with_moments: bool

    def bytes(self) -> int:
        """At the worst moment, or no less than."""
        memory = training_memory(
            self.config,
            batch_size=self.rows * self.sequences,
            length=self.length,
            lora_r=self.lora_r,
            load_in_4bit=self.load_in_4bit,
            activation_checkpointing=self.checkpointing,
            head=self.head,
        )
        if self.estimated:
            return memory.total
        if self.lora_r is not None:
            return memory.weights * (1 if self.load_in_4bit else self.value_bytes // 2)
        # of float32, of which another type takes half
        trained = memory.weights + memory.gradients
        return (trained + memory.optimizer * self.with_moments) * self.value_bytes // 4

    def alternatives(self) -> Iterator[tuple[str, _Settings]]:
        """What could be changed, the least first."""
        one_row = "per_device_train_batch_size: 1 with more gradient_accumulation_steps"
        adapted = replace(
            self, lora_r=self.lora_r or 16, estimated=True, load_in_4bit=self.load_in_4bit
        )
        lora = (
            ""
            if self.lora_r is not None
            else ("use_peft: true, lora_target_modules: [all-linear], dtype: bfloat16, bf16: true")
        )
        if lora:
            yield lora, adapted
        elif self.estimated:
            if not self.checkpointing:
                yield "activation_checkpointing: true", replace(self, checkpointing=True)
            if self.rows > 1:
                yield one_row, replace(self, rows=1)
        if not self.load_in_4bit:
            words = ", ".join(part for part in (lora, "load_in_4bit: true") if part)
            yield words, replace(adapted, load_in_4bit=True)
        yield (
            "load_in_4bit: true, activation_checkpointing: true, " + one_row,
            replace(adapted, load_in_4bit=True, checkpointing=True, rows=1),
        )


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.2f} MB"
