"""Let a fine-tuned proposer play workspace tasks and reinforce what pays (GRPO).

    accelerate launch recipes/grpo_proposer.py --model_name_or_path SFT_MODEL --dataset_dir DATA \
        --output_dir OUT [--config FILE.yaml] [--key value ...]

Starts from the plain checkpoint that sft_proposer.py wrote, and may take its rows: each task whose
first step is among them is played, whole episodes in groups of `num_generations`. Rewards are
weighted by name in the config. In train_log.json look at `rewards/*/mean`, and at
`frac_reward_zero_std`: groups whose episodes are all worth the same teach nothing. Writes a plain
checkpoint.
"""

from __future__ import annotations

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, ModelConfig, get_peft_config, get_quantization_config

from specact_rl.envs.trl import REWARDS, grpo_tasks, grpo_tokenizer
from specact_rl.models.fitting import check_fits_device
from specact_rl.models.grpo import (
    GrpoArguments,
    check_arguments,
    check_room,
    playing_order,
    task_ids_of,
)
from specact_rl.models.recipe_arguments import parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.programs import default_config

ARGUMENTS = (GrpoArguments, GRPOConfig, ModelConfig)


def main() -> None:
    """Parse, check, train, save."""
    arguments, training, model = parse_arguments(ARGUMENTS, default_config("grpo_proposer"))
    check_arguments(arguments, training)
    run = open_run("grpo_proposer", arguments, training, model)
    if run is None:
        return
    task_ids = task_ids_of(run.rows, run.renderer, run.rows_path)
    longest = check_room(task_ids, run.renderer, run.model_path, training)
    check_fits_device(run.model_path, training, model, [longest])
    tasks = grpo_tasks(task_ids, run.renderer, training.max_completion_length)
    order = playing_order(len(task_ids), training)
    training.reward_weights = arguments.reward_weights
    training.shuffle_dataset, training.num_train_epochs = False, 1  # the order has it all
    training.include_num_input_tokens_seen = "no"  # TRL counts by itself
    trainer = GRPOTrainer(
        model=run.model_path,
        args=training,
        reward_funcs=list(REWARDS.values()),
        train_dataset=Dataset.from_list([tasks.rows[i] for i in order]),
        processing_class=grpo_tokenizer(run.renderer),
        environment_factory=tasks.factories,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )
    run.train(trainer)
    run.save(trainer)


if __name__ == "__main__":
    with recipe_errors("grpo_proposer"):
        main()
