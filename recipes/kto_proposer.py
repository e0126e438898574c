"""Move a fine-tuned proposer towards right and away from wrong actions, without pairs (KTO).

    accelerate launch recipes/kto_proposer.py --model_name_or_path SFT_MODEL --dataset_dir DATA \
        --output_dir OUT [--config FILE.yaml] [--key value ...]

Rows are TRL's `prompt`/`completion`/`label`; the reference is the checkpoint it starts from. With
`balance: loss` both labels weigh the same, whatever their numbers; train_log.json has the weights.
Its KL term compares rows of a batch with each other, so a batch has two at least, of a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset
from trl import KTOConfig, KTOTrainer, ModelConfig, get_peft_config, get_quantization_config
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from specact_rl.errors import ConfigError
from specact_rl.models.fitting import check_fits_device
from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.models.training import (
    CutAfterStop,
    binary_labels,
    check_trained_tokens,
    fit_rows,
    token_rows,
)
from specact_rl.models.unpaired import (
    KTO_BALANCES,
    CutPrompts,
    KtoBalance,
    check_kl_estimate,
    kto_order,
    kto_weights,
)
from specact_rl.programs import default_config

COLUMNS = ("prompt", "completion", "label", "tools")


@dataclass(frozen=True, slots=True, kw_only=True)
class KtoArguments(RecipeArguments):
    """What kto_proposer.py adds to KTOConfig and ModelConfig."""

    balance: KtoBalance = field(
        default="loss",
        metadata={"help": "Both labels get equal weight (loss), or the given weights (none)."},
    )

    def __post_init__(self) -> None:
        """Check what YAML values are not checked for."""
        RecipeArguments.__post_init__(self)  # slots: super() has lost its class here
        if self.balance not in KTO_BALANCES:
            raise ConfigError(f"balance must be one of {KTO_BALANCES!r}, got {self.balance!r}")


ARGUMENTS = (KtoArguments, KTOConfig, ModelConfig)


def main() -> None:
    """Parse, check, train, save."""
    arguments, training, model = parse_arguments(ARGUMENTS, default_config("kto_proposer"))
    check_kl_estimate(training)
    run = open_run("kto_proposer", arguments, training, model)
    if run is None:
        return
    labels = binary_labels(run.rows, run.rows_path, "KTO")
    rows = fit_rows(
        [row for [row] in token_rows(run.rows, run.renderer, ["completion"], run.rows_path)],
        training.max_length,
        allow_truncation=arguments.allow_truncation,
    )
    check_fits_device(run.model_path, training, model, [len(row.ids) for row in rows])
    weights = kto_weights(labels, training, arguments.balance)
    training.desirable_weight = weights.desirable_weight
    training.undesirable_weight = weights.undesirable_weight
    collator = DataCollatorForUnpairedPreference(
        pad_token_id=run.tokenizer.pad_token_id,
        pad_to_multiple_of=training.pad_to_multiple_of,
    )
    cut = CutPrompts(collate=collator, max_length=training.max_length)
    training.max_length = None  # the collator cuts prompts; the trainer would cut actions
    order = kto_order(len(rows), training)
    trainer = KTOTrainer(
        model=run.model_path,
        args=training,
        data_collator=CutAfterStop(
            collate=cut,
            stop_token_id=run.tokenizer.eos_token_id,
            columns=("completion_ids", "KL_completion_ids"),
        ),
        train_dataset=Dataset.from_list(
            [{name: run.rows[i][name] for name in COLUMNS if name in run.rows[i]} for i in order],
            on_mixed_types="use_json",
        ),
        processing_class=run.tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )
    check_trained_tokens(trainer, rows, num_rows=len(order))
    run.train(trainer)
    run.save(trainer, facts=weights.to_json())


if __name__ == "__main__":
    with recipe_errors("kto_proposer"):
        main()
