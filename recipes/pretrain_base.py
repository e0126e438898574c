"""Pretrain a tiny base model on workspace text, loss on requests, results and good turns.

    accelerate launch recipes/pretrain_base.py --config recipes/configs/tiny/pretrain_base_1m.yaml

The bases that the repository ships came from this program; `specact run --from-scratch` runs it
again. Corpus, tokenizer and model follow from the seed.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import Trainer, TrainingArguments

from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.errors import ConfigError
from specact_rl.models.cards import changed_settings
from specact_rl.models.finite_loss import stop_at_bad_loss
from specact_rl.models.loading import load_tokenizer
from specact_rl.models.pretraining import (
    CorpusDataset,
    MuonWithAdamW,
    PadCollator,
    corpus_texts,
    save_base,
)
from specact_rl.models.recipe_arguments import parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import last_checkpoint
from specact_rl.models.tiny import new_model, qwen3_config, train_tokenizer
from specact_rl.models.training_progress import ProgressFile
from specact_rl.programs import default_config
from specact_rl.rendering import Renderer


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainArguments:
    """What pretrain_base.py adds to TrainingArguments."""

    size: str = field(metadata={"help": "Shape of the model: 1m or 4m."})
    num_episodes: int = field(metadata={"help": "Workspace episodes in the corpus."})
    tokenizer_dir: Path | None = field(
        default=None,
        metadata={"help": "Folder with a tokenizer to use; trained on the corpus when not given."},
    )
    vocab_size: int = field(
        default=1536, metadata={"help": "Upper bound of the tokenizer's vocabulary."}
    )
    muon_learning_rate: float = field(
        default=0.02,
        metadata={"help": "Peak rate for the layers' matrices; learning_rate is for the rest."},
    )
    compile_model: bool = field(
        default=False,
        metadata={"help": "Compile: twice as fast at 4M, after three minutes of compiling."},
    )

    def __post_init__(self) -> None:
        """Check what YAML values are not checked for."""
        if self.size not in ("1m", "4m"):
            raise ConfigError(f"size must be '1m' or '4m', got {self.size!r}")
        if self.num_episodes < 1:
            raise ConfigError(f"num_episodes must be at least 1, got {self.num_episodes!r}")


ARGUMENTS = (PretrainArguments, TrainingArguments)


def main() -> None:
    """Parse, build, train, save."""
    arguments, training = parse_arguments(
        ARGUMENTS, default_config("pretrain_base_1m"), prog="pretrain_base"
    )
    started = time.time()
    training.logging_nan_inf_filter = False  # stop_at_bad_loss looks, and does not go on
    if arguments.tokenizer_dir is not None:
        tokenizer = load_tokenizer(str(arguments.tokenizer_dir))
    else:
        rollouts = corpus_rollouts(min(arguments.num_episodes, 5_000))
        texts = ("\n".join(corpus_texts(rollout)) for rollout in rollouts)
        tokenizer = train_tokenizer(texts, arguments.vocab_size)
    renderer = Renderer(tokenizer=tokenizer, catalogue="compact")
    dataset = CorpusDataset(renderer, arguments.num_episodes)
    config = qwen3_config(len(tokenizer), arguments.size)
    # Faster than sdpa for heads of 32 on a CPU: 3.8 times at 4M in bf16, 1.2 times at 1M.
    config._attn_implementation = "eager"
    model = new_model(config, training.seed)
    if arguments.compile_model:
        model.compile(dynamic=True)  # rows differ in length
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=dataset,
        data_collator=PadCollator(tokenizer.pad_token_id),
        optimizers=(
            MuonWithAdamW(model, muon_lr=arguments.muon_learning_rate, lr=training.learning_rate),
            None,
        ),
        callbacks=[ProgressFile(Path(training.output_dir))],
    )
    stop_at_bad_loss(trainer, dataset.names)
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(training.output_dir)))
    changed = changed_settings(asdict(arguments), PretrainArguments)
    save_base(
        trainer,
        renderer,
        dataset,
        changed,
        recipe="pretrain_base",
        name=f"base_{arguments.size}",
        started=started,
    )


if __name__ == "__main__":
    with recipe_errors("pretrain_base"):
        main()
