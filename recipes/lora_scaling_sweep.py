"""Train LoRA adapters over a grid of scales, and measure which of them garble what is generated.

    accelerate launch recipes/lora_scaling_sweep.py --model_name_or_path MODEL --dataset_dir DATA \
        --rollouts_dir ROLLOUTS --output_dir OUT [--config FILE.yaml] [--key value ...]

DATA is built by build_sft.py with --eval-fraction from ROLLOUTS: `train` is trained on, `eval` is
measured on. That the end of every row is trained and known is checked before each training. A
killed sweep goes on with the cell it was at; lines of cells may be added to a finished one. Writes
results.json, lora_sweep.md, lora_sweep.html and figures; no checkpoint is kept.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trl import ModelConfig, SFTConfig

from specact_rl.errors import ConfigError
from specact_rl.eval.lora_sweep import HeldOut, Measuring, run_cells
from specact_rl.eval.lora_sweep_page import sweep_page
from specact_rl.eval.lora_sweep_results import sweep_results
from specact_rl.eval.report.writing import write_page
from specact_rl.models.fitting import check_fits_device
from specact_rl.models.lora_cells import planned_cells
from specact_rl.models.recipe_arguments import RecipeArguments, parse_arguments, recipe_errors
from specact_rl.models.recipe_runs import open_run
from specact_rl.models.training import fit_rows, token_rows
from specact_rl.programs import default_config
from specact_rl.store import folder_hash, write_json

logger = logging.getLogger("specact_rl.recipes")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepArguments(RecipeArguments):
    """What the sweep adds to every recipe's arguments."""

    rollouts_dir: Path = field(metadata={"help": "Folder of rollouts that dataset_dir came from."})
    max_new_tokens: int = field(
        default=64, metadata={"help": "Longest turn that is generated, stop token included."}
    )
    lines: list[dict[str, Any]] = field(
        default_factory=list,
        metadata={"help": "Cells: each entry has lists of values per axis. In the config only."},
    )

    def __post_init__(self) -> None:
        """Check also that there is one process: cells are trained one after the other."""
        RecipeArguments.__post_init__(self)
        if self.num_processes != 1:
            raise ConfigError(
                f"num_processes must be 1, got {self.num_processes!r}: start sweeps of other lines "
                "with an output_dir of their own instead"
            )


ARGUMENTS = (SweepArguments, SFTConfig, ModelConfig)


def main() -> None:
    """Parse, check, train and measure cell by cell, write."""
    arguments, training, model = parse_arguments(ARGUMENTS, default_config("lora_scaling_sweep"))
    cells = planned_cells(arguments.lines)
    # The cells are not part of the run's identity, so that there may be more of them later.
    shared = {f.name: getattr(arguments, f.name) for f in fields(RecipeArguments)}
    run = open_run("lora_scaling_sweep", RecipeArguments(**shared), training, model)
    assert run is not None  # only a checkpoint makes a folder finished, and none is left here
    rows = fit_rows(
        [row for [row] in token_rows(run.rows, run.renderer, ["completion"], run.rows_path)],
        training.max_length,
        allow_truncation=arguments.allow_truncation,
    )
    check_fits_device(run.model_path, training, model, [len(row.ids) for row in rows])
    held_out = HeldOut.read(arguments.dataset_dir, arguments.rollouts_dir, run.renderer)
    measuring = Measuring(held_out, run.tokenizer, arguments.max_new_tokens)
    records = run_cells(
        run,
        cells,
        rows=rows,
        measuring=measuring,
        measured_on={
            "rollouts": folder_hash(arguments.rollouts_dir),
            "max_new_tokens": arguments.max_new_tokens,
        },
    )
    results = sweep_results(records) | {
        "command": sys.argv,
        "origin": run.origin,
        "max_new_tokens": arguments.max_new_tokens,
        "num_train_rows": len(rows),
    }
    write_page(sweep_page(results), run.output_dir, "lora_sweep")
    write_json(run.output_dir / "results.json", results)
    logger.info("wrote %s", run.output_dir)


if __name__ == "__main__":
    with recipe_errors("lora_scaling_sweep"):
        main()
