"""Fine-tune a proposer on the right actions, loss on the action's tokens only.

    accelerate launch recipes/sft_proposer.py --model_name_or_path MODEL --dataset_dir DATA \
        --output_dir OUT [--config FILE.yaml] [--key value ...]

Rows are TRL's `prompt`/`completion`. They are tokenised by the renderer that inference uses, not
by the trainer, and end with the stop token: what a template writes after it (Qwen3: a newline) is
never generated, so it is not in the loss either. Writes a plain checkpoint.
"""

from __future__ import annotations

from datasets import Dataset
from trl import ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from specact_rl.models.fast_training import PackedSFTTrainer, PackingArguments
from specact_rl.models.fitting import check_fits_device
from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.models.training import check_trained_tokens, fit_rows, token_rows
from specact_rl.programs import default_config

ARGUMENTS = (RecipeArguments, SFTConfig, ModelConfig, PackingArguments)


def main() -> None:
    """Parse, check, train, save."""
    arguments, training, model, packing = parse_arguments(ARGUMENTS, default_config("sft_proposer"))
    run = open_run("sft_proposer", arguments, training, model)
    if run is None:
        return
    rows = fit_rows(
        [row for [row] in token_rows(run.rows, run.renderer, ["completion"], run.rows_path)],
        training.max_length,
        allow_truncation=arguments.allow_truncation,
    )
    training.max_length = None  # nothing is left for the trainer to cut or drop
    check_fits_device(run.model_path, training, model, [len(row.ids) for row in rows])
    trainer = PackedSFTTrainer(
        model=run.model_path,
        args=training,
        train_dataset=Dataset.from_dict(
            {"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]}
        ),
        processing_class=run.tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        pack_batches=packing.pack_batches,
    )
    check_trained_tokens(trainer, rows, num_rows=len(rows))
    run.train(trainer)
    run.save(trainer)


if __name__ == "__main__":
    with recipe_errors("sft_proposer"):
        main()
