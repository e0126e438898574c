"""A base model of a few thousand weights, data sets built by the renderer, recipes run in place."""

import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from specact_rl.models.loading import load_tokenizer, save_checkpoint_info
from specact_rl.models.tiny import new_model, train_tokenizer
from specact_rl.rendering import Renderer
from specact_rl.store import write_training_rows
from specact_rl.types import Action, ToolSpec
from tests import records
from tests.tiny_models import tiny_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TOOLS = [
    ToolSpec(name="open", parameters={"type": "object", "properties": {"file": {}}}),
    ToolSpec(name="send", parameters={"type": "object", "properties": {"mail": {}, "to": {}}}),
]


def make_step(i):
    """Each has another length, so that a batch is padded."""
    return records.make_step(
        f"Open f{i}" + " please" * i,
        name=f"r{i}/0",
        task_id=f"t{i}",
        split="train_proposer",
        tools=TOOLS,
    )


def right(i):
    if i % 4 == 3:
        return Action(type="final_answer", text=f"Done with f{i}.")
    return Action(type="file_read", tool="open", arguments={"file": f"f{i}"})


def wrong(i):
    return Action(type="tool_call", tool="send", arguments={"mail": f"m{i}", "to": "“Zoë”"})


@dataclass(frozen=True)
class World:
    """What the tests train and on what."""

    base: Path
    data: dict[str, Path]
    """Data set folder by recipe."""
    renderer: Renderer


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), hidden_size=16)


@pytest.fixture(scope="session")
def wide_world(tmp_path_factory):
    """Weights that divide into the blocks of 64 which 4-bit quantisation needs."""
    return make_world(tmp_path_factory.mktemp("wide_world"), hidden_size=64)


def make_world(folder, hidden_size):
    base = folder / "base"
    tokenizer = train_tokenizer(['Open f1 please, {"file": "f1"}. Done.'], 320)
    config = tiny_config(
        tokenizer,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        initializer_range=0.2,
    )
    new_model(config, seed=0).save_pretrained(base)
    tokenizer.save_pretrained(base)
    renderer = Renderer(tokenizer=load_tokenizer(base), catalogue="compact")
    save_checkpoint_info(base, renderer)
    return World(base=base, data=write_data(folder, renderer), renderer=renderer)


def write_data(folder, renderer):
    steps = [make_step(i) for i in range(8)]
    sft = [renderer.training_row(step, right(i)) for i, step in enumerate(steps)]
    pairs = [
        renderer.prompt_fields(step)
        | {"chosen": renderer.training_row(step, right(i))["completion"]}
        | {"rejected": renderer.training_row(step, wrong(i))["completion"]}
        for i, step in enumerate(steps)
    ]
    # two of eight are acceptable
    verifier = [
        renderer.training_row(step, right(i) if i % 4 == 0 else wrong(i), label=i % 4 == 0)
        for i, step in enumerate(steps)
    ]
    # what KTO and rewards are of is the same, but for unparsable text
    judged = [*verifier[:7], verifier[7] | {"completion": [{"role": "assistant", "content": "?"}]}]
    rewarded = [{**row, "reward": float(row["label"]), "num_samples": 1} for row in judged]
    for row in rewarded:
        del row["label"]
    rows = {
        "sft_proposer": sft,
        "kto_proposer": judged,
        "reward_weighted_sft": rewarded,
        "dpo_proposer": pairs,
        "train_reward_model": pairs,
        "train_verifier": verifier,
    }
    for name, each in rows.items():
        write_training_rows(folder / name, {"train": each}, "Test rows.")
    return {name: folder / name for name in rows}


@pytest.fixture
def command(world):
    """Script and arguments of a smoke run."""

    def build(recipe, out, *extra):
        return [
            str(RECIPES / f"{recipe}.py"),
            *("--config", str(RECIPES / "configs" / "smoke" / f"{recipe}.yaml")),
            *("--model_name_or_path", str(world.base)),
            *("--dataset_dir", str(world.data[recipe])),
            *("--output_dir", str(out)),
            *map(str, extra),
        ]

    return build


@pytest.fixture
def run_recipe(command, monkeypatch):
    """Run a recipe's smoke config in this process, as a user's command line would."""

    def run(recipe, out, *extra):
        argv = command(recipe, out, *extra)
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(argv[0], run_name="__main__")
        return json.loads((out / "train_log.json").read_text())

    return run


@pytest.fixture
def refused(run_recipe, tmp_path, capfd):
    """The error line of a run that must end with exit code 2."""

    def run(recipe, *extra, out=None):
        with pytest.raises(SystemExit) as end:
            run_recipe(recipe, out or tmp_path / "out", *extra)
        assert end.value.code == 2
        return capfd.readouterr().err

    return run
