"""Checkpoints in: tokenizers, causal LMs, classifiers, adapters; and which checkpoint it was.

Safetensors only, no remote code. A checkpoint carries the hash of the template it was trained
with, and is refused with another one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import huggingface_hub
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from specact_rl.errors import ModelError
from specact_rl.metrics.cost import ModelSize
from specact_rl.models.chat_templates import OWN, chat_template
from specact_rl.models.names import ModelName
from specact_rl.models.prefix import unwrap
from specact_rl.models.weight_files import check_whole, tensor_shapes
from specact_rl.rendering import Renderer
from specact_rl.store import content_hash

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16"]

CHECKPOINT_INFO = "specact.json"
"""File beside the weights that says how their prompts were rendered."""

_ADAPTER_CONFIG = "adapter_config.json"
_SAFE_OPTIONS: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}


_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


def local_model(name: str, revision: str | None = None) -> Path:
    """Folder of a whole checkpoint.

    Args:
        name: A folder, a hub id, or `id@revision`. One from the hub is downloaded, or taken from
            the cache; nothing but its safetensors and the files that describe them.
        revision: Of a hub id that does not say it itself.

    Raises:
        ModelError: It is no folder, cannot be had from the hub, or is no whole checkpoint: an
            adapter, or one with a file that is missing or cut short.
    """
    path = model_folder(name, revision)
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{path} must be a whole checkpoint, but has no config.json; merge an adapter into its "
            "base first"
        )
    check_whole(path)
    return path


def model_folder(name: str | Path, revision: str | None = None) -> Path:
    """Folder of a named model, not looked at; arguments as `local_model`.

    Raises:
        ModelError: It is no folder and cannot be had from the hub.
    """
    found = ModelName.parse(name, revision)
    if found.is_folder:
        return Path(found.place)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                found.place,
                revision=found.revision,
                allow_patterns=_HUB_FILES,
                ignore_patterns=["original/*", "consolidated*"],
            )
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {str(name)!r} must be a checkpoint folder or a hub id (with @revision if you "
            f"like): {_first_line(error)}"
        ) from error


def load_tokenizer(name: str | Path, template: str = OWN) -> PreTrainedTokenizerBase:
    """Tokenizer of a local folder, hub id or `id@revision`; nothing else of it is fetched.

    Args:
        name: Of the checkpoint.
        template: Name of the chat template that it gets; see `chat_templates`.

    Raises:
        ModelError: There is none, or no such template.
    """
    found = ModelName.parse(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            found.place, trust_remote_code=False, **found.options
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no tokenizer can be loaded from {str(name)!r}: {_first_line(error)}"
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if template != OWN:
        tokenizer.chat_template = chat_template(template)
    return tokenizer


def load_config(name: str | Path) -> PreTrainedConfig:
    """Config of a local folder, hub id or `id@revision`; nothing else of it is fetched.

    Raises:
        ModelError: There is none.
    """
    found = ModelName.parse(name)
    try:
        config = AutoConfig.from_pretrained(found.place, trust_remote_code=False, **found.options)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {str(name)!r} must be a checkpoint folder or a hub id (with @revision if you "
            f"like): {_first_line(error)}"
        ) from error
    assert isinstance(config, PreTrainedConfig)
    return config


def _first_line(error: Exception) -> str:
    """What happened; behind it the libraries say in paragraphs what could be done."""
    return next(iter(str(error).splitlines()), repr(error))


def usual_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usual_dtype(device: torch.device) -> Dtype:
    """What models are loaded in that need not be exact: bfloat16 where the device computes in it.

    On a CPU float32: nothing is gained by less there, and results are those of other machines.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32"


def dtype_origin(model: PreTrainedModel) -> dict[str, str]:
    """The numbers a model computes in, where they are not the exact ones that tables are of."""
    dtype = str(model.dtype).removeprefix("torch.")
    return {} if dtype == "float32" else {"dtype": dtype}


def load_causal_lm(
    path: str | Path, dtype: Dtype | None = None, *, device: str | None = None
) -> PreTrainedModel:
    """Causal LM of a local folder, hub id or `id@revision`, in evaluation mode.

    A LoRA adapter folder gives its base model with the adapter merged. `device` None is the GPU
    where there is one, `dtype` None what `usual_dtype` says of the device.

    Raises:
        ModelError: Nothing can be loaded, or not from safetensors; a file is cut short, weights are
            missing, or an adapter was made for another base.
    """
    return _load(AutoModelForCausalLM, path, dtype, device)


def load_classifier(
    path: str | Path, dtype: Dtype | None = None, num_labels: int = 2, *, device: str | None = None
) -> PreTrainedModel:
    """Sequence classifier of a local folder, hub id or `id@revision`, in evaluation mode.

    `device` None is the GPU where there is one, `dtype` None what `usual_dtype` says of the device.

    Raises:
        ModelError: Nothing can be loaded, as in `load_causal_lm`, or the adapter has no head.
    """
    adapter = _adapter_config(path)
    if adapter is not None and adapter.get("task_type") != "SEQ_CLS":
        # Without it peft saves no head, and a fresh random one would be loaded in silence.
        raise ModelError(
            f"{path}/{_ADAPTER_CONFIG}: task_type must be 'SEQ_CLS' for the head to be saved, got "
            f"{adapter.get('task_type')!r}; train with LoraConfig(task_type='SEQ_CLS')"
        )
    return _load(AutoModelForSequenceClassification, path, dtype, device, num_labels=num_labels)


def load_actor(folder: str | Path, dtype: Dtype | None = None) -> PreTrainedModel:
    """`load_causal_lm` of a checkpoint that writes actions; a verifier's is refused.

    Raises:
        ModelError: Nothing can be loaded, or it is a verifier or reward model.
    """
    # Looked at first, so that the weights of its head are not what is missed.
    _refuse_judge(folder)
    return load_causal_lm(folder, dtype)


def actor_parts(folder: str | Path) -> tuple[Path, dict[str, Any] | None]:
    """Where the weights of a checkpoint that writes actions are, for who loads them by itself.

    Returns:
        The folder of a whole model, and the peft config of the adapter to it that `folder` is;
        None where `folder` is whole.

    Raises:
        ModelError: It is a verifier or reward model, its weights are not all there, or it is an
            adapter of another base.
    """
    _refuse_judge(folder)
    adapter = _adapter_config(folder)
    if adapter is None:
        return local_model(str(folder)), None
    source = str(_base_of(adapter))
    _check_base_id(Path(folder), source, _wrong_base(folder, source))
    check_whole(Path(folder))
    return local_model(source), adapter


def _refuse_judge(folder: str | Path) -> None:
    config = Path(folder, "config.json")
    found = (
        AutoConfig.from_pretrained(folder, trust_remote_code=False) if config.is_file() else None
    )
    if found is not None and is_classifier(found):
        raise ModelError(
            f"{folder} must hold a model that writes actions, found {found.architectures!r}"
            ", a verifier or reward model. Give the folder of a proposer"
        )


def load_judge(folder: str | Path, dtype: Dtype | None = None) -> PreTrainedModel:
    """`load_classifier` of a whole checkpoint, with as many labels as it was saved with.

    Raises:
        ModelError: Nothing can be loaded, or it is no verifier (two labels) or reward model (one).
    """
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} must be a whole checkpoint: {error}") from error
    if not is_classifier(config) or config.num_labels not in (1, 2):
        # A causal LM loads, too, with a random head.
        raise ModelError(
            f"{folder} must hold a verifier (two labels) or a reward model (one), found "
            f"{config.architectures!r} with {config.num_labels} labels. Give a folder that "
            "train_verifier.py or train_reward_model.py wrote"
        )
    return load_classifier(folder, dtype, config.num_labels)


def is_classifier(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint was saved as a sequence classifier."""
    return any(_names_classifier(name) for name in config.architectures or [])


def _names_classifier(name: str) -> bool:
    return name.endswith("ForSequenceClassification")


def model_id(
    model: str | Path | PreTrainedModel, renderer: Renderer, name: str | None = None
) -> str:
    """Name and content hash: `name` or the last part of the path, "-", 16 hex digits.

    The hash is over the weights and the renderer's template hash. The weights are the safetensors
    files of a path or hub id (an adapter's base included), or the tensors of a model in memory;
    the two give different ids.
    """
    if isinstance(model, PreTrainedModel):
        name = name or Path(model.name_or_path or "").name or type(model).__name__
        weights = tensors_digest(model)
    else:
        name = name or ModelName.parse(model).short
        weights = weights_digest(model)
    return f"{name}-{_short_id(weights, renderer.template_hash)}"


def _short_id(weights: str, template_hash: str) -> str:
    return hashlib.sha256(f"{weights} {template_hash}".encode()).hexdigest()[:16]


def save_checkpoint_info(
    folder: str | Path, renderer: Renderer, base_model_id: str | None = None
) -> None:
    """Write beside a checkpoint how its prompts were rendered.

    Args:
        folder: Of the checkpoint.
        renderer: Its own.
        base_model_id: Of the model that an adapter belongs to; None beside a whole checkpoint.
    """
    info = {
        "template_hash": renderer.template_hash,
        "template_parts": renderer.template_parts,
        "vocabulary": _vocabulary(renderer),
    }
    if base_model_id is not None:
        info["base_model_id"] = base_model_id
    Path(folder, CHECKPOINT_INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def check_checkpoint_info(folder: str | Path, renderer: Renderer) -> None:
    """Check that a checkpoint was trained on what `renderer` writes.

    A folder without the file (any model from elsewhere) passes, with a warning.

    Raises:
        ModelError: Chat template, catalogue mode, special tokens or vocabulary differ; says which.
    """
    path = Path(folder, CHECKPOINT_INFO)
    if not path.is_file():
        logger.warning("%s has no %s: its chat template is not checked", folder, CHECKPOINT_INFO)
        return
    info = _checkpoint_info(path)
    trained, found = info["template_parts"], renderer.template_parts
    if "vocabulary" in info:
        # Beside the template's parts, whose hash is in the ids of models that are out there.
        trained, found = (
            {**parts, "vocabulary": own}
            for parts, own in ((trained, info["vocabulary"]), (found, _vocabulary(renderer)))
        )
    if trained == found:
        return
    differing = "; ".join(
        f"{name} (trained with {trained.get(name)!r}, got {part!r})"
        for name, part in found.items()
        if trained.get(name) != part
    )
    raise ModelError(
        f"{path}: prompts must be rendered as in training, but these differ: {differing}. Use the "
        "tokenizer saved with the checkpoint, its own chat_template and its catalogue mode"
    )


def proposer_renderer(name: ModelName, folder: Path) -> Renderer:
    """`checkpoint_renderer`, or of a model from the hub that does not say: its own chat template.

    Args:
        name: As the user gave it.
        folder: Where its files are.

    Raises:
        ModelError: A folder that does not say, or another tokenizer than in training.
    """
    if name.is_folder or Path(folder, CHECKPOINT_INFO).is_file():
        return checkpoint_renderer(folder)
    logger.warning(
        "%s has no %s: its prompts are rendered by its own chat template, tools included",
        *(name, CHECKPOINT_INFO),
    )
    return Renderer(tokenizer=load_tokenizer(folder), catalogue="template")


def checkpoint_renderer(folder: str | Path) -> Renderer:
    """The renderer that a checkpoint was trained with, in the catalogue mode it says itself.

    Raises:
        ModelError: The folder does not say, or its tokenizer is not the one it was trained with.
    """
    path = Path(folder, CHECKPOINT_INFO)
    if not path.is_file():
        raise ModelError(
            f"{folder} must be a local checkpoint folder with {CHECKPOINT_INFO}, which says how "
            "its prompts are rendered, but there is no such file. Give a folder that a recipe wrote"
        )
    info = _checkpoint_info(path)
    renderer = Renderer(
        tokenizer=load_tokenizer(folder), catalogue=info["template_parts"]["catalogue"]
    )
    check_checkpoint_info(folder, renderer)
    return renderer


def _checkpoint_info(path: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        info["template_parts"]["catalogue"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} must say how prompts are rendered, but cannot be read ({error!r}); copy it "
            "again from where the checkpoint was trained"
        ) from error
    return info


def _vocabulary(renderer: Renderer) -> str:
    """Content hash (16 hex) of the tokens and their numbers."""
    return content_hash(renderer.tokenizer.get_vocab())


def num_params(model: nn.Module) -> int:
    """Weights that take part in a forward pass, N of "2 N FLOPs a token".

    All parameters (shared ones once) but the input embedding, which is a look-up; an embedding
    tied to the output layer counts, as it is multiplied there.
    """
    inner = unwrap(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    embedding = inner.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    head = inner.get_output_embeddings()  # type: ignore[no-untyped-call]
    tied = head is not None and head.weight is embedding
    return total if tied else total - embedding.numel()


def model_size(model: nn.Module) -> ModelSize:
    """What a forward pass of a loaded model costs."""
    config = unwrap(model).config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelSize(
        num_params=num_params(model),
        attention_width=config.num_hidden_layers * heads * head_dim,
    )


def _load(
    auto_class: Any, path: str | Path, dtype: Dtype | None, device: str | None, **options: Any
) -> PreTrainedModel:
    where = torch.device(device) if device is not None else usual_device()
    adapter = _adapter_config(path)
    name = ModelName.parse(path) if adapter is None else _base_of(adapter)
    source = name.place
    for folder in {Path(path), Path(source)}:
        if folder.is_dir():
            check_whole(folder)
    try:
        model, report = auto_class.from_pretrained(
            source,
            dtype=getattr(torch, dtype or usual_dtype(where)),
            output_loading_info=True,
            **_SAFE_OPTIONS,
            **name.options,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        whose = f", the base of the adapter {str(path)!r}" if adapter is not None else ""
        raise ModelError(
            f"no {auto_class.__name__} with safetensors weights can be loaded from {str(name)!r}"
            f"{whose}: {error}"
        ) from error
    assert isinstance(model, PreTrainedModel)
    _check_complete(model, source, report["missing_keys"])
    if adapter is not None:
        model = _merge_adapter(model, Path(path), str(name))
    model.eval()  # type: ignore[no-untyped-call]
    model.to(where)  # type: ignore[arg-type]
    return model


def _check_complete(model: PreTrainedModel, source: str, missing: Collection[str]) -> None:
    """Refuse weights that would be random: all of a causal LM, all but the head of a classifier."""
    if _names_classifier(type(model).__name__):
        inner = f"{model.base_model_prefix}."
        missing = [key for key in missing if key.startswith(inner) and "pooler" not in key]
    if missing:
        raise ModelError(
            f"{source} must have all weights that its config.json asks for, but "
            f"{len(missing)} are missing and would be random, the first is {min(missing)!r}; "
            "copy or download the checkpoint again"
        )


def _merge_adapter(model: PreTrainedModel, path: Path, source: str) -> PreTrainedModel:
    # A second of import that plain checkpoints need not wait for.
    from peft import PeftModel, get_peft_model_state_dict

    if not any(path.glob("*.safetensors")):
        raise ModelError(f"{path} must hold adapter_model.safetensors; save with safetensors")
    wrong_base = _wrong_base(path, source)
    _check_base_id(path, source, wrong_base)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
            adapted = PeftModel.from_pretrained(model, str(path))
    except (OSError, ValueError, RuntimeError) as error:  # other shapes, or no such layers
        raise ModelError(wrong_base.format(found=error)) from error
    # peft passes over layers that only one of the two has.
    saved = tensor_shapes(path)
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    unmatched = sorted(name for name in set(saved) ^ set(wanted) if "lora_" in name)
    if unmatched:
        place = "the adapter" if unmatched[0] in saved else "the base"
        raise ModelError(
            wrong_base.format(
                found=f"{len(unmatched)} adapted layers are in one of the two only, such as "
                f"{unmatched[0]!r} in {place}"
            )
        )
    return cast(PreTrainedModel, adapted.merge_and_unload())


def _wrong_base(path: str | Path, source: str) -> str:
    """Words that wait for `found`."""
    return (
        f"{path} must be an adapter of the base that its {_ADAPTER_CONFIG} names, {source!r}, but "
        "was made for another: {found}. Name the base that it was trained on"
    )


def _check_base_id(path: Path, source: str, wrong_base: str) -> None:
    """Refuse a base of other weights, where the adapter says which it was trained on."""
    if not (path / CHECKPOINT_INFO).is_file():
        return
    info = _checkpoint_info(path / CHECKPOINT_INFO)
    trained_on = info.get("base_model_id")
    if trained_on is None:
        return
    found = _short_id(weights_digest(source), info["template_hash"])
    if not str(trained_on).endswith(found):
        raise ModelError(
            wrong_base.format(
                found=f"it was trained on {trained_on}, and the weights there are ...-{found}"
            )
        )


def _adapter_config(path: str | Path) -> dict[str, Any] | None:
    file = Path(path, _ADAPTER_CONFIG)
    if not file.is_file() or Path(path, "config.json").is_file():
        return None
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def _base_of(adapter: Mapping[str, Any]) -> ModelName:
    return ModelName.parse(adapter["base_model_name_or_path"], adapter.get("revision"))


def weights_digest(path: str | Path) -> str:
    """SHA-256 over the hashes of a checkpoint's safetensors files, an adapter's base included.

    Raises:
        ModelError: It has none, or cannot be had.
    """
    folder = model_folder(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{path} has no safetensors weights; save the model with safetensors")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    adapter = _adapter_config(folder)
    if adapter is not None:
        digest.update(weights_digest(str(_base_of(adapter))).encode())
    return digest.hexdigest()


def tensors_digest(model: PreTrainedModel) -> str:
    """SHA-256 of the tensors of a model in memory, names and types included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # numpy has no bfloat16, bytes are enough
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
