"""Fine-tune a proposer on rewarded actions, better ones more (RWR), or the best ones only (RAFT).

    accelerate launch recipes/reward_weighted_sft.py --model_name_or_path SFT_MODEL \
        --dataset_dir DATA --output_dir OUT [--config FILE.yaml] [--key value ...]

Rows are `prompt`/`completion`/`reward`. With `mode: rwr` an action weighs exp(reward / temperature)
over its mean in all rows, with `rwr_step` over its mean in the rows of the same prompt; `raft`
keeps the best row of each prompt whose reward is at least `min_reward`. Weights of 1 are SFT.
train_log.json has the effective sample size; one of next to nothing is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset
from trl import ModelConfig, SFTConfig, get_peft_config, get_quantization_config
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from specact_rl.errors import ConfigError
from specact_rl.models.fast_training import PackingArguments
from specact_rl.models.fitting import check_fits_device
from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.models.reward_weights import (
    WEIGHT_COLUMN,
    WEIGHT_MODES,
    CollateWeights,
    WeightedSFTTrainer,
    WeightMode,
    check_effective_rows,
    check_weighted_loss,
    rewards_of,
    row_weights,
)
from specact_rl.models.training import check_trained_tokens, fit_rows, token_rows
from specact_rl.programs import default_config


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedArguments(RecipeArguments):
    """What reward_weighted_sft.py adds to SFTConfig and ModelConfig."""

    mode: WeightMode = field(
        default="rwr", metadata={"help": "How rewards become weights: rwr, rwr_step or raft."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Of rwr and rwr_step, in units of the reward."}
    )
    min_reward: float | None = field(
        default=None, metadata={"help": "Of raft: least reward that is kept; null keeps any."}
    )

    def __post_init__(self) -> None:
        """Check what YAML values are not checked for."""
        RecipeArguments.__post_init__(self)  # slots: super() has lost its class here
        if self.mode not in WEIGHT_MODES:
            raise ConfigError(f"mode must be one of {WEIGHT_MODES!r}, got {self.mode!r}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature!r}")


ARGUMENTS = (WeightedArguments, SFTConfig, ModelConfig, PackingArguments)


def main() -> None:
    """Parse, check, train, save."""
    arguments, training, model, packing = parse_arguments(
        ARGUMENTS, default_config("reward_weighted_sft")
    )
    check_weighted_loss(training)
    run = open_run("reward_weighted_sft", arguments, training, model)
    if run is None:
        return
    rewards = rewards_of(run.rows, run.rows_path)
    weights = row_weights(
        run.rows,
        rewards,
        arguments.mode,
        temperature=arguments.temperature,
        min_reward=arguments.min_reward,
    )
    check_effective_rows(weights, rewards)
    tokens = token_rows(run.rows, run.renderer, ["completion"], run.rows_path)
    rows = fit_rows(
        [tokens[i][0] for i in weights.rows],
        training.max_length,
        allow_truncation=arguments.allow_truncation,
    )
    training.max_length = None  # nothing is left for the trainer to cut or drop
    training.remove_unused_columns = False  # of which the weight would be one
    check_fits_device(run.model_path, training, model, [len(row.ids) for row in rows])
    trainer = WeightedSFTTrainer(
        model=run.model_path,
        args=training,
        data_collator=CollateWeights(
            collate=DataCollatorForLanguageModeling(
                pad_token_id=run.tokenizer.pad_token_id,
                pad_to_multiple_of=training.pad_to_multiple_of,
            )
        ),
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [row.ids for row in rows],
                "labels": [row.labels for row in rows],
                WEIGHT_COLUMN: weights.weights[weights.rows].tolist(),
            }
        ),
        processing_class=run.tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        pack_batches=packing.pack_batches,
    )
    check_trained_tokens(trainer, rows, num_rows=len(rows))
    run.train(trainer)
    run.save(trainer, facts=weights.to_json())


if __name__ == "__main__":
    with recipe_errors("reward_weighted_sft"):
        main()
