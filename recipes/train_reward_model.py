"""Train a reward model on pairs of actions; a higher reward is a better action.

    accelerate launch recipes/train_reward_model.py --model_name_or_path MODEL --dataset_dir DATA \
        --output_dir OUT [--config FILE.yaml] [--key value ...]

Only differences of rewards are trained, so `center_rewards_coefficient` keeps their mean near 0,
and thresholds on them need a calibrator. Writes a plain sequence classifier with one output.
"""

from __future__ import annotations

from datasets import Dataset
from trl import ModelConfig, RewardConfig, RewardTrainer, get_peft_config, get_quantization_config

from specact_rl.errors import ConfigError
from specact_rl.models.fitting import check_fits_device
from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.models.training import (
    check_pad_token,
    check_pairs,
    check_trained_tokens,
    fit_rows,
    token_rows,
)
from specact_rl.programs import default_config

ARGUMENTS = (RecipeArguments, RewardConfig, ModelConfig)


def main() -> None:
    """Parse, check, train, save."""
    arguments, training, model = parse_arguments(ARGUMENTS, default_config("train_reward_model"))
    if model.load_in_4bit and not training.bf16:
        # TRL keeps adapter and head in bfloat16 there, which only autocast joins with the rest.
        raise ConfigError("load_in_4bit needs bf16: true for a reward model, got bf16: false")
    run = open_run("train_reward_model", arguments, training, model)
    if run is None:
        return
    check_pad_token(run.tokenizer)
    pairs = token_rows(run.rows, run.renderer, ["chosen", "rejected"], run.rows_path)
    check_pairs(pairs)
    rows = fit_rows(
        [side for pair in pairs for side in pair],
        training.max_length,
        allow_truncation=arguments.allow_truncation,
    )
    training.max_length = None  # nothing is left for the trainer to drop
    lengths = [len(row.ids) for row in rows]
    check_fits_device(run.model_path, training, model, lengths, sequences=2, head="labels")
    model.lora_task_type = "SEQ_CLS"  # with another one the head is trained, but not saved
    trainer = RewardTrainer(
        model=run.model_path,
        args=training,
        train_dataset=Dataset.from_dict(
            {
                "chosen_ids": [row.ids for row in rows[::2]],
                "rejected_ids": [row.ids for row in rows[1::2]],
            }
        ),
        processing_class=run.tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )
    check_trained_tokens(trainer, rows, num_rows=len(pairs))
    run.train(trainer)
    run.save(trainer)


if __name__ == "__main__":
    with recipe_errors("train_reward_model"):
        main()
