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
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
from trl import ModelConfig

from specact_rl.errors import ConfigError
from specact_rl.models.fitting import check_fits_device
from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.models.training import (
    BALANCES,
    Balance,
    WeightedCrossEntropy,
    binary_labels,
    check_pad_token,
    check_trained_tokens,
    class_weights,
    fit_rows,
    new_classifier,
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
    labels = binary_labels(run.rows, run.rows_path)
    rows = fit_rows(
        [row for [row] in token_rows(run.rows, run.renderer, ["completion"], run.rows_path)],
        arguments.max_length,
        allow_truncation=arguments.allow_truncation,
    )
    lengths = [len(row.ids) for row in rows]
    check_fits_device(run.model_path, training, model, lengths, head="labels")
    chosen = sampled_rows(labels, arguments.balance)
    trainer = Trainer(
        model=new_classifier(run.model_path, run.tokenizer.pad_token_id, training, model),
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


if __name__ == "__main__":
    with recipe_errors("train_verifier"):
        main()
