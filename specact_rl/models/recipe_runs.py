"""What every recipe does before and after its trainer: checks, resuming, the folder it leaves.

Knows the life of a run; not which loss is trained. A finished folder is a plain checkpoint
(adapters merged) with a card and `train_log.json`, which is written last; until then it holds
`checkpoints/`, from which the same command goes on. What every training gets besides: batches that
are the same however they are cut up (`whole_batches`), and an end at the first loss that is no
number (`finite_loss`).
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from accelerate.utils import DistributedType
from peft import PeftModel, TaskType
from transformers import (
    AutoConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.model_config import ModelConfig

from specact_rl import __version__
from specact_rl.errors import ConfigError
from specact_rl.models.cards import ModelFacts, changed_settings, model_card
from specact_rl.models.finite_loss import row_names, stop_at_bad_loss
from specact_rl.models.loading import (
    Dtype,
    check_checkpoint_info,
    is_classifier,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    local_model,
    model_id,
    save_checkpoint_info,
    weights_digest,
)
from specact_rl.models.names import ModelName
from specact_rl.models.recipe_arguments import RecipeArguments
from specact_rl.models.training_progress import ProgressFile
from specact_rl.models.whole_batches import keep_batches_whole
from specact_rl.rendering import Renderer
from specact_rl.store import (
    content_hash,
    file_hash,
    folder_hash,
    read_json,
    read_training_rows,
    remove_temporaries,
    sync,
    write_json,
)
from specact_rl.store.cards import CARD, shown_argument

logger = logging.getLogger(__name__)

TRAIN_LOG = "train_log.json"
"""Log, seconds, tokens, versions and origin of a finished checkpoint."""

TRACKING = "tracking"
"""Where TensorBoard's events go, unless TENSORBOARD_LOGGING_DIR says it."""

_MARKER = ".run.json"
_CHECKPOINTS = "checkpoints"
# Of these a result does not depend on; the rest of TrainingArguments is part of a run's identity.
_WHERE_AND_HOW_LOUD = {
    "output_dir", "run_name", "local_rank", "log_level", "log_level_replica", "disable_tqdm",
    "report_to", "resume_from_checkpoint",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRun:
    """One run of a recipe, checked and ready for its trainer."""

    recipe: str
    arguments: RecipeArguments
    training: TrainingArguments
    """Its output_dir is the folder of resumable checkpoints."""
    model: ModelConfig
    output_dir: Path
    """Where the finished checkpoint will be."""
    model_path: str
    """Local folder of the model to start from."""
    renderer: Renderer
    rows: list[dict[str, Any]]
    origin: dict[str, Any]
    """What the result depends on, by content."""
    started: float

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the model."""
        return self.renderer.tokenizer

    @property
    def rows_path(self) -> Path:
        """File of the rows."""
        return self.arguments.dataset_dir / f"{self.arguments.split}.parquet"

    def train(self, trainer: Trainer) -> None:
        """Train, from the last checkpoint if there is one."""
        last = last_checkpoint(Path(self.output_dir, _CHECKPOINTS))
        if last is not None:
            logger.info("going on from %s", last)
        if trainer.accelerator.num_processes > 1:
            kind = str(trainer.accelerator.distributed_type)
            logger.info("%d processes, %s", trainer.accelerator.num_processes, kind)
        _check_sharding(trainer)
        trainer.add_callback(ProgressFile(self.output_dir))
        if isinstance(trainer.model, PeftModel):
            trainer.add_callback(_SayBase(self))
        keep_batches_whole(trainer)
        stop_at_bad_loss(trainer, row_names(self.rows, self.renderer, self.rows_path))
        trainer.train(resume_from_checkpoint=last)

    def save(
        self,
        trainer: Trainer,
        files: Mapping[str, Mapping[str, Any]] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Leave a plain checkpoint in `output_dir`, and nothing there that looks like one before.

        Args:
            trainer: Has been trained; all processes must call this.
            files: Further JSON files by name.
            facts: What the recipe found out of its rows, for train_log.json.
        """
        saving, adapter = self.output_dir / ".saving", self.output_dir / ".adapter"
        main = trainer.is_world_process_zero()
        if main:
            shutil.rmtree(saving, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        is_adapter = isinstance(trainer.model, PeftModel)
        trainer.save_model(str(adapter if is_adapter else saving))
        if main:
            if is_adapter:
                # The base may have been replaced while its adapter was trained.
                save_checkpoint_info(adapter, self.renderer, self.origin["base_model_id"])
                self._save_merged(trainer.model, adapter, saving)
            self.tokenizer.save_pretrained(saving)
            save_checkpoint_info(saving, self.renderer)
            for name, content in (files or {}).items():
                write_json(saving / name, dict(content))
            log = {**self._log(trainer), "facts": dict(facts or {})}
            write_json(saving / TRAIN_LOG, log)
            card = model_card(log, self._card_facts(saving))
            (saving / CARD).write_text(card, encoding="utf-8")
            self._publish(saving)
            logger.info("wrote %s", self.output_dir)
        trainer.accelerator.wait_for_everyone()
        if trainer.accelerator.num_processes > 1:
            trainer.end()  # type: ignore[no-untyped-call]

    def _save_merged(self, trained: Any, adapter: Path, saving: Path) -> None:
        # Loaded anew, because an adapter cannot be merged into 4-bit weights without loss; not onto
        # the GPU, which still holds the trained model and its optimizer.
        dtype = cast(Dtype, self.model.dtype)
        config = trained.config
        if trained.active_peft_config.task_type == TaskType.SEQ_CLS:
            merged = load_classifier(adapter, dtype, config.num_labels, device="cpu")
            merged.config.id2label, merged.config.label2id = config.id2label, config.label2id
        else:
            merged = load_causal_lm(adapter, dtype, device="cpu")
        merged.config.pad_token_id = config.pad_token_id
        merged.save_pretrained(saving)

    def _log(self, trainer: Trainer) -> dict[str, Any]:
        return {
            "run_hash": content_hash(self.origin),
            "recipe": self.recipe,
            "origin": self.origin,
            "command": [shown_argument(word) for word in sys.argv],
            "seed": self.training.seed,
            "num_processes": self.arguments.num_processes,
            "num_rows": len(self.rows),
            "num_steps": trainer.state.global_step,
            "num_tokens": trainer.state.num_input_tokens_seen,
            "seconds": round(time.time() - self.started, 3),
            "versions": library_versions(),
            "log": [_finite(entry) for entry in trainer.state.log_history],
        }

    def _card_facts(self, saving: Path) -> ModelFacts:
        config = AutoConfig.from_pretrained(saving, trust_remote_code=False)
        source = _named(self.model)
        options = self.origin["options"]
        given = {"arguments": self.arguments, "model": self.model, "training": self.training}
        return ModelFacts(
            name=self.output_dir.resolve().name,
            num_labels=config.num_labels if is_classifier(config) else None,
            base=None if source.is_folder else source.place,
            dataset=self.arguments.dataset_dir.resolve().name,
            changed={
                part: changed_settings(options[part], type(kind)) for part, kind in given.items()
            },
            weights_sha256=weights_digest(saving),
        )

    def _publish(self, saving: Path) -> None:
        (saving / "training_args.bin").unlink(missing_ok=True)  # a pickle
        for path in saving.rglob("*"):
            sync(path)
        # config.json makes it a checkpoint, and the log a finished one.
        last = {"config.json": 1, TRAIN_LOG: 2}
        for path in sorted(saving.iterdir(), key=lambda path: last.get(path.name, 0)):
            if path.name in last:
                sync(self.output_dir)  # what it vouches for is there, also after a power cut
            os.replace(path, self.output_dir / path.name)
        sync(self.output_dir)
        _remove_scaffold(self.output_dir)


def library_versions() -> dict[str, str]:
    """Of what a training depends on, by name."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    return {
        "specact_rl": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def training_settings(training: TrainingArguments) -> dict[str, Any]:
    """What a result depends on, as JSON: all but places and how loud it is."""
    settings = training.to_dict()  # type: ignore[no-untyped-call]
    kept = {k: v for k, v in settings.items() if k not in _WHERE_AND_HOW_LOUD}
    return cast(dict[str, Any], json.loads(json.dumps(kept, default=str)))


class _SayBase(TrainerCallback):
    """Writes into each checkpoint of an adapter which base it belongs to."""

    def __init__(self, run: RecipeRun) -> None:
        """For the checkpoints of this run."""
        self._run = run

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After each checkpoint."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
            base = self._run.origin["base_model_id"]
            save_checkpoint_info(folder, self._run.renderer, base)


def open_run(
    recipe: str, arguments: RecipeArguments, training: TrainingArguments, model: ModelConfig
) -> RecipeRun | None:
    """Check everything that can be known before training, and load rows and tokenizer.

    Sets `training.output_dir` to the folder of resumable checkpoints.

    Args:
        recipe: Its name.
        arguments: Those of every recipe.
        training: Those of its trainer; `output_dir` is where the finished checkpoint goes.
        model: The model to start from, and how it is loaded and adapted.

    Returns:
        None when `output_dir` has the finished result of the same run already.

    Raises:
        ConfigError: Arguments, data or folder do not fit.
        ModelError: The model cannot be had, or was trained on another template.
    """
    started = time.time()
    _check_processes(arguments, training)
    output_dir = Path(str(training.output_dir))
    if output_dir == Path("trainer_output"):
        raise ConfigError("output_dir must be given: the folder of the finished checkpoint")
    _check_options(training, model)
    model_path = _local_model(model)
    tokenizer = load_tokenizer(model_path, arguments.chat_template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    renderer = Renderer(tokenizer=tokenizer, catalogue=arguments.catalogue)
    check_checkpoint_info(model_path, renderer)
    base_id = model_id(model_path, renderer, _named(model).short)
    origin = _origin(recipe, arguments, training, model, base_id)
    finished = _is_finished(output_dir, content_hash(origin))
    if training.process_index == 0:
        remove_temporaries(output_dir)
        if finished:  # maybe killed just then
            _remove_scaffold(output_dir)
    if finished:
        logger.info("%s is up to date", output_dir)
        return None
    rows = read_training_rows(arguments.dataset_dir, arguments.split)
    if not rows:
        raise ConfigError(f"split {arguments.split!r} of {arguments.dataset_dir} has no rows")
    if training.process_index == 0:
        write_json(output_dir / _MARKER, {"run_hash": content_hash(origin)})
    _set_up(training, model, output_dir)
    logger.info("%d rows from %s", len(rows), arguments.dataset_dir)
    return RecipeRun(
        recipe=recipe,
        arguments=arguments,
        training=training,
        model=model,
        output_dir=output_dir,
        model_path=str(model_path),
        renderer=renderer,
        rows=rows,
        origin=origin,
        started=started,
    )


def _check_processes(arguments: RecipeArguments, training: TrainingArguments) -> None:
    # Only TrainingArguments knows: launchers have silently started one process (accelerate on CPU).
    if training.world_size != arguments.num_processes:
        raise ConfigError(
            f"num_processes promises {arguments.num_processes} processes, but there are "
            f"{training.world_size}; start as many (on a CPU: ACCELERATE_USE_CPU=true torchrun "
            "--nproc_per_node N RECIPE), or change num_processes"
        )
    if training.n_gpu > 1:
        raise ConfigError(
            f"one process must see one GPU, got {training.n_gpu}; set CUDA_VISIBLE_DEVICES, or "
            "launch a process for each and say so in num_processes"
        )


def _check_sharding(trainer: Trainer) -> None:
    # accelerate shards on several GPUs only, and otherwise trains whole copies without a word.
    kind = trainer.accelerator.distributed_type
    for wanted in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        told = os.environ.get(f"ACCELERATE_USE_{wanted.value}", "false").lower() == "true"
        if told and kind != wanted:
            raise ConfigError(
                f"the launcher was told to shard with {wanted.value}, but accelerate trains as "
                f"{kind.value}; start several processes on GPUs, or take another launch file"
            )


def _check_options(training: TrainingArguments, model: ModelConfig) -> None:
    if model.dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype must be float32, bfloat16 or float16, got {model.dtype!r}")
    if (model.load_in_4bit or model.load_in_8bit) and not model.use_peft:
        raise ConfigError("quantised weights cannot be trained; set use_peft: true for an adapter")
    for name in ("packing", "padding_free"):
        if getattr(training, name, False):
            raise ConfigError(
                f"{name} must be off: packing lets rows see each other where attention ignores "
                "their borders; train_sampling_strategy: group_by_length saves padding as well"
            )
    if training.hub_token is not None:
        raise ConfigError(
            "hub_token must not be given: it would be written into checkpoints and logs; log in "
            "with `hf auth login`, or set HF_TOKEN"
        )
    installed = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    unknown = set(training.report_to or ()) - set(installed)
    if unknown:
        raise ConfigError(
            f"report_to names {', '.join(sorted(unknown))}, which is not installed or not known; "
            f"installed are {installed!r}, and 'none' is always there"
        )
    for name in ("chat_template_path", "eos_token", "pad_token"):
        if getattr(training, name, None) is not None:
            raise ConfigError(
                f"{name} must not be set: it would change the trainer's tokenizer alone, while "
                "prompts are rendered by the model's own, here and at inference; set chat_template "
                "for another template, or change the tokenizer's tokens and save it with the model"
            )


def _set_up(training: TrainingArguments, model: ModelConfig, output_dir: Path) -> None:
    training.output_dir = str(output_dir / _CHECKPOINTS)
    training.include_num_input_tokens_seen = "non_padding"
    training.logging_nan_inf_filter = False  # finite_loss.py looks, and does not go on
    # Beside checkpoints, which are deleted in the end; trackers read their own variables else.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output_dir / TRACKING))
    if hasattr(training, "model_init_kwargs"):  # TRL's trainers load the model by themselves
        training.model_init_kwargs = {
            "dtype": model.dtype,
            "attn_implementation": model.attn_implementation,
            "use_safetensors": True,
        }


def _named(model: ModelConfig) -> ModelName:
    return ModelName.parse(str(model.model_name_or_path), model.model_revision)


def _local_model(model: ModelConfig) -> Path:
    """Folder of the model; one from the hub is downloaded at its revision, or taken from cache."""
    if not model.model_name_or_path:
        raise ConfigError("model_name_or_path must be given: a checkpoint folder or a hub id")
    return local_model(model.model_name_or_path, model.model_revision)


def _origin(
    recipe: str,
    arguments: RecipeArguments,
    training: TrainingArguments,
    model: ModelConfig,
    base_model_id: str,
) -> dict[str, Any]:
    """What decides the result. Two runs with the same origin are the same run."""
    rows = arguments.dataset_dir / f"{arguments.split}.parquet"
    manifest = arguments.dataset_dir / "manifest.json"
    options = {
        "arguments": {k: v for k, v in asdict(arguments).items() if k != "dataset_dir"},
        "model": {k: v for k, v in asdict(model).items() if not k.startswith("model_")},
        "training": training_settings(training),
    }
    if not rows.is_file():
        raise ConfigError(
            f"dataset_dir must hold {rows.name}, but there is no {rows}; run the data builder, or "
            "choose another split"
        )
    return {
        "recipe": recipe,
        "base_model_id": base_model_id,
        "rows_sha256": file_hash(rows),
        "dataset_hash": folder_hash(arguments.dataset_dir) if manifest.is_file() else None,
        "options": json.loads(json.dumps(options, default=str)),
    }


def _is_finished(output_dir: Path, run_hash: str) -> bool:
    """Whether the folder has this run's result; False if this run may work there.

    Raises:
        ConfigError: It holds anything else.
    """
    if (output_dir / TRAIN_LOG).is_file():
        if read_json(output_dir / TRAIN_LOG).get("run_hash") == run_hash:
            return True
        raise ConfigError(
            f"{output_dir} holds a checkpoint made from other arguments, rows or model, which is "
            "not overwritten; choose another output_dir, or delete it"
        )
    if (output_dir / _MARKER).is_file():
        if read_json(output_dir / _MARKER).get("run_hash") != run_hash:
            raise ConfigError(
                f"{output_dir} holds an unfinished run with other arguments, rows or model; choose "
                "another output_dir, or delete it"
            )
        return False
    if output_dir.exists() and any(not p.name.startswith(".") for p in output_dir.iterdir()):
        raise ConfigError(f"output_dir {output_dir} must be new or empty, but holds other files")
    return False


def _remove_scaffold(output_dir: Path) -> None:
    """Delete what a finished folder does not need; the marker goes last."""
    for name in (".saving", ".adapter", _CHECKPOINTS):
        shutil.rmtree(output_dir / name, ignore_errors=True)
    (output_dir / _MARKER).unlink(missing_ok=True)


def last_checkpoint(folder: Path) -> str | None:
    """Newest whole checkpoint of a training, or None; half-written ones are deleted."""
    if not folder.is_dir():
        return None
    for path in folder.glob("checkpoint-*"):
        if not (path / "trainer_state.json").is_file():  # written last: saving was interrupted
            shutil.rmtree(path, ignore_errors=True)
    return cast("str | None", get_last_checkpoint(str(folder)))  # type: ignore[no-untyped-call]


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A log entry as JSON takes it: None for NaN and infinities."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }
