"""Move a fine-tuned proposer towards chosen and away from rejected actions (DPO).

    accelerate launch recipes/dpo_proposer.py --model_name_or_path SFT_MODEL --dataset_dir DATA \
        --output_dir OUT [--config FILE.yaml] [--key value ...]

Starts from the plain checkpoint that sft_proposer.py wrote; the reference is that checkpoint.
`level: trajectory` takes pairs of whole episodes (`build_preferences --strategies outcome`), with
the loss on every action of the policy and on no tool result. `loss_type: [sigmoid_norm]` (or `ipo`)
compares means per token instead of sums, so that long sides count no more than short ones.
`loss_type: [sigmoid, sft]` with `loss_weights` adds a likelihood term on the chosen side, against
both likelihoods falling: watch `logps/chosen` in train_log.json. Writes a plain checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset
from trl import DPOConfig, ModelConfig, get_peft_config, get_quantization_config
from trl.trainer.dpo_trainer import DataCollatorForPreference

from specact_rl.errors import ConfigError
from specact_rl.models.fast_training import PackedDPOTrainer, PackingArguments
from specact_rl.models.fitting import check_fits_device
from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.models.training import CutAfterStop, check_pairs, check_trained_tokens, fit_rows
from specact_rl.models.trajectories import LEVELS, Level, LossOnTurns, side_rows
from specact_rl.programs import default_config


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoArguments(RecipeArguments):
    """What dpo_proposer.py adds to DPOConfig and ModelConfig."""

    level: Level = field(
        default="step",
        metadata={"help": "Sides of the pairs: step (one action each) or trajectory (episodes)."},
    )

    def __post_init__(self) -> None:
        """Check what YAML values are not checked for."""
        RecipeArguments.__post_init__(self)  # slots: super() has lost its class here
        if self.level not in LEVELS:
            raise ConfigError(f"level must be one of {LEVELS!r}, got {self.level!r}")


ARGUMENTS = (DpoArguments, DPOConfig, ModelConfig, PackingArguments)
COLUMNS = ("prompt", "chosen", "rejected", "tools")


def main() -> None:
    """Parse, check, train, save."""
    arguments, training, model, packing = parse_arguments(ARGUMENTS, default_config("dpo_proposer"))
    run = open_run("dpo_proposer", arguments, training, model)
    if run is None:
        return
    pairs = side_rows(run.rows, run.renderer, arguments.level, run.rows_path)
    check_pairs(pairs)
    expected = fit_rows(
        [side for pair in pairs for side in pair],
        training.max_length,
        allow_truncation=arguments.allow_truncation,
    )
    lengths = [len(row.ids) for row in expected]
    check_fits_device(run.model_path, training, model, lengths, sequences=2)
    collator = DataCollatorForPreference(
        pad_token_id=run.tokenizer.pad_token_id,
        max_length=training.max_length,
        truncation_mode="keep_end",
        pad_to_multiple_of=training.pad_to_multiple_of,
    )
    cut = CutAfterStop(collate=collator, stop_token_id=run.tokenizer.eos_token_id)
    training.max_length = None  # the collator cuts; the trainer would drop rows
    trainer = PackedDPOTrainer(
        model=run.model_path,
        args=training,
        data_collator=LossOnTurns.of(cut, expected),
        train_dataset=Dataset.from_list(
            [{name: row[name] for name in COLUMNS if name in row} for row in run.rows],
            on_mixed_types="use_json",
        ),
        processing_class=run.tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        pack_batches=packing.pack_batches,
    )
    check_trained_tokens(trainer, expected, num_rows=len(pairs))
    run.train(trainer)
    run.save(trainer)


if __name__ == "__main__":
    with recipe_errors("dpo_proposer"):
        main()
