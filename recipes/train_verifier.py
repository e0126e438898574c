"""Train a verifier: a classifier that says whether a proposed action is acceptable.

    accelerate launch recipes/train_verifier.py --model_name_or_path MODEL --dataset_dir DATA \
        --output_dir OUT [--config FILE.yaml] [--key value ...]

Rows are TRL's `prompt`/`completion`/`label`. Log-odds are the "acceptable" output minus the other,
read at the stop token. A balanced loss moves them to a 50/50 prior: calibrate with an intercept.
Writes a plain sequence classifier, and `verifier.json` with the labels it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset
from peft import get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)
from trl import ModelConfig, get_peft_config, get_quantization_config

from specact_rl.errors import ConfigError
from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.models.training import (
    BALANCES,
    LABEL_NAMES,
    Balance,
    WeightedCrossEntropy,
    binary_labels,
    check_pad_token,
    check_trained_tokens,
    class_weights,
    fit_rows,
    sampled_rows,
    token_rows,
)
from specact_rl.programs import default_config


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierArguments(RecipeArguments):
    """What train_verifier.py adds to TrainingArguments and ModelConfig."""

    balance: Balance = field(
        default="loss",
        metadata={"help": "How both labels get equal weight: loss, sampling (repeats), or none."},
    )
    max_length: int | None = field(
        default=1024, metadata={"help": "Longest row in tokens; null for no limit."}
    )

    def __post_init__(self) -> None:
        """Check what YAML values are not checked for."""
        RecipeArguments.__post_init__(self)  # slots: super() has lost its class here
        if self.balance not in BALANCES:
            raise ConfigError(f"balance must be one of {BALANCES!r}, got {self.balance!r}")


ARGUMENTS = (VerifierArguments, TrainingArguments, ModelConfig)


def main() -> None:
    """Parse, check, train, save."""
    arguments, training, model = parse_arguments(ARGUMENTS, default_config("train_verifier"))
    run = open_run("train_verifier", arguments, training, model)
    if run is None:
        return
    check_pad_token(run.tokenizer)
    run.tokenizer.padding_side = "right"
    labels = binary_labels(run.rows)
    rows = fit_rows(
        [row for [row] in token_rows(run.rows, run.renderer, ["completion"])],
        arguments.max_length,
        allow_truncation=arguments.allow_truncation,
    )
    chosen = sampled_rows(labels, arguments.balance)
    trainer = Trainer(
        model=build_classifier(run.model_path, run.tokenizer.pad_token_id, training, model),
        args=training,
        train_dataset=Dataset.from_dict(
            {"input_ids": [rows[i].ids for i in chosen], "labels": [labels[i] for i in chosen]}
        ),
        data_collator=DataCollatorWithPadding(run.tokenizer),
        processing_class=run.tokenizer,
        compute_loss_func=WeightedCrossEntropy(weights=class_weights(labels, arguments.balance)),
    )
    check_trained_tokens(trainer, rows, num_rows=len(chosen))
    run.train(trainer)
    facts = {
        "num_rows": len(labels),
        "num_acceptable": sum(labels),
        "positive_fraction_train": sum(labels) / len(labels),
        "balance": arguments.balance,
        "max_length": arguments.max_length,
        "base_model_id": run.origin["base_model_id"],
        "dataset_hash": run.origin["dataset_hash"],
    }
    run.save(trainer, {"verifier.json": facts})


def build_classifier(path, pad_token_id, training, model):  # type: ignore[no-untyped-def]
    """The model with a new head of two outputs, its adapter and quantisation as configured."""
    set_seed(training.seed)  # the head and the adapter are random
    classifier = AutoModelForSequenceClassification.from_pretrained(
        path,
        id2label=LABEL_NAMES,
        label2id={name: label for label, name in LABEL_NAMES.items()},
        pad_token_id=pad_token_id,
        dtype=model.dtype,
        attn_implementation=model.attn_implementation,
        quantization_config=get_quantization_config(model),
        use_safetensors=True,
    )
    if not model.use_peft:
        return classifier
    if model.load_in_4bit or model.load_in_8bit:
        classifier = prepare_model_for_kbit_training(
            classifier, use_gradient_checkpointing=training.activation_checkpointing
        )
    elif training.activation_checkpointing:
        classifier.enable_input_require_grads()
    model.lora_task_type = "SEQ_CLS"  # with another one the head is trained, but not saved
    return get_peft_model(classifier, get_peft_config(model))


if __name__ == "__main__":
    with recipe_errors("train_verifier"):
        main()
