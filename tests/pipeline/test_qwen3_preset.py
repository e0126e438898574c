"""The qwen3 preset from its tasks to its report, on models of a few thousand weights and no GPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config

from specact_rl.models import tied
from specact_rl.models.chat_templates import QWEN3_TRAINING, chat_template
from specact_rl.models.loading import load_tokenizer
from specact_rl.models.tiny import new_model
from specact_rl.presets import model_path

# Random weights write nothing that parses, and a run of them stops with that diagnosis. So the
# bases that write have one turn planted in their output embedding. What the cheap one asks is right
# at steps of all the splits that need both labels, with the tasks of seed 70.
CHEAP_TURN, STRONG_TURN = "Which priority?", "Done"


def cut_down(folder, *, layers, seed, turn=None):
    """A Qwen3 with the hub's template, random but for its one turn; widths fit blocks of nf4.

    Without a turn, input and output share their embedding, as in 1.7B and 4B.
    """
    tokenizer = load_tokenizer(model_path("builtin:1m"), "qwen3")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        tie_word_embeddings=turn is None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = new_model(config, seed=seed)
    if turn is not None:
        ids = tokenizer("\n" + turn, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            model.model.embed_tokens.weight.normal_()
            embedding = torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=1)
            for token, following in zip(ids, [*ids[1:], tokenizer.eos_token_id], strict=True):
                model.lm_head.weight[following] = 1.3 * embedding[token]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def start(out, bases, log):
    command = [sys.executable, "-m", "specact_rl.cli", "run", "--preset", "qwen3", "--out", out]
    for role, folder in bases.items():
        command += [f"--{role}-base", folder]
    return subprocess.Popen(
        [*command, "--num-tasks", "24", "--seed", "70"],
        stdout=subprocess.DEVNULL,
        stderr=log.open("a"),
    )


def recipes_of(out):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_text()
        except OSError:
            continue
        if f"{out}/models/" in arguments and tied.identity(int(path.parent.name)) is not None:
            found.append(arguments)
    return found


@pytest.mark.slow
def test_qwen3_preset_of_local_folders_runs_to_its_report_and_survives_a_kill(tmp_path):
    bases = {
        "cheap": cut_down(tmp_path / "cheap", layers=1, seed=0, turn=CHEAP_TURN),
        "strong": cut_down(tmp_path / "strong", layers=2, seed=1, turn=STRONG_TURN),
        "verifier": cut_down(tmp_path / "verifier", layers=2, seed=2),
    }
    out, log = tmp_path / "run", tmp_path / "log.txt"
    process = start(out, bases, log)
    while process.poll() is None and not any(out.glob("models/strong/.progress.json")):
        time.sleep(0.02)
    assert process.poll() is None, log.read_text()[-2000:]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 10
    while recipes_of(out) and time.monotonic() < end:
        time.sleep(0.1)
    assert recipes_of(out) == []
    assert not (out / "models" / "strong" / "config.json").exists()

    assert start(out, bases, log).wait() == 0, log.read_text()[-2000:]
    found = json.loads((out / "evaluation" / "results.json").read_text())
    assert found["meta"]["bases"] == list(bases.values())
    names = {row["name"] for row in found["replay"]["systems"]}
    assert {"A", "B", "C", "D", "E", "D-rm", "B-dpo", "D-dpo"} <= names
    assert (out / "report" / "report.html").is_file()
    for role in ("cheap", "strong", "verifier", "reward_model", "cheap_dpo"):
        trained = json.loads((out / "models" / role / "train_log.json").read_text())
        options = trained["origin"]["options"]["model"]
        template = (out / "models" / role / "chat_template.jinja").read_text()
        assert template == chat_template(QWEN3_TRAINING)
        assert options["use_peft"]
        assert options["load_in_4bit"] == (role in ("verifier", "reward_model"))
    # every stage is found again
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/*/manifest.json")}
    written |= {path: path.stat().st_mtime_ns for path in out.glob("models/*/*")}
    assert start(out, bases, log).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
