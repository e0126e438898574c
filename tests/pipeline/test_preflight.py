"""What `specact run` refuses before it begins."""

from types import SimpleNamespace

import pytest
from transformers import AutoConfig, AutoTokenizer

from specact_rl.cli import main
from specact_rl.models.device import Device
from specact_rl.models.loading import load_tokenizer
from specact_rl.pipeline import plan
from specact_rl.pipeline.bases import adapted_preset
from specact_rl.pipeline.preflight import check_bases, check_before_run
from specact_rl.pipeline.servers import Servers
from specact_rl.presets import find_preset, model_path


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """The error of a run that must end before its folder is made."""

    def begin(*args):
        raise AssertionError("the run has begun")

    monkeypatch.setattr("specact_rl.pipeline.run.Run.execute", begin)

    def run(*options):
        assert main(["run", "--out", str(tmp_path / "out"), *map(str, options)]) == 2
        assert not (tmp_path / "out").exists()
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("specact: error: ")  # one line, whatever a library says of it
        return last

    return run


@pytest.fixture
def memory(monkeypatch):
    """Give the device so many bytes."""

    def give(number):
        device = Device(
            name="CPU", memory=number, memory_source="given", rate=1.0, rate_source="given"
        )
        monkeypatch.setattr(plan, "find_device", lambda *args, **named: device)

    return give


@pytest.mark.parametrize("role", ["cheap", "strong", "verifier"])
def test_a_base_that_is_not_there_is_found_before_anything_starts(role, refused):
    error = refused("--preset", "smoke", f"--{role}-base", "org/modle@v1")
    assert error.startswith(
        f"specact: error: --{role}-base org/modle@v1: model 'org/modle@v1' must"
    )


def test_a_folder_that_is_no_whole_checkpoint_is_found_before(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    error = refused("--preset", "smoke", "--verifier-base", tmp_path / "empty")
    assert "empty must be a whole checkpoint, but has no config.json" in error


def test_a_base_of_another_template_is_found_before(refused):
    error = refused("--preset", "qwen3", "--cheap-base", model_path("builtin:1m"))
    assert "these differ: " in error
    assert "catalogue" in error


def test_of_bases_on_the_hub_config_and_tokenizer_are_looked_up_at_their_revision(monkeypatch):
    asked = []
    tokenizer = load_tokenizer(model_path("builtin:1m"))

    def answering(kind, answer):
        def look_up(place, **options):
            asked.append((kind, place, options.get("revision")))
            return answer

        return look_up

    def refuse(*args, **named):
        raise AssertionError("no weights may be fetched")

    config = AutoConfig.from_pretrained(model_path("builtin:1m"))
    monkeypatch.setattr(AutoConfig, "from_pretrained", answering("config", config))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", answering("tokenizer", tokenizer))
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    preset = adapted_preset(find_preset("qwen3"), cheap_base="org/a@v1", strong_base="org/b")
    check_bases(preset, Servers.of(preset))
    expected = [("org/a", "v1"), ("org/b", None), (preset.verifier_base, None)]
    assert asked == [(kind, *base) for base in expected for kind in ("config", "tokenizer")]


def test_a_stage_that_cannot_fit_is_named_with_what_it_takes_and_what_to_change(refused, memory):
    memory(600_000_000)
    error = refused("--preset", "smoke", "--num-tasks", "10")
    assert "CPU has 0.6 GB, and the run does not fit: " in error
    assert "cheap proposes: cheap (0.3 GB)" in error
    assert "Smaller bases: --cheap-base" in error


def test_a_run_that_fits_is_let_through(memory):
    memory(2_000_000_000)
    preset = adapted_preset(find_preset("smoke"), num_tasks=10)
    check_before_run(preset, 0, Servers.of(preset))


def test_memory_of_other_architectures_is_not_guessed(memory, monkeypatch):
    memory(1)
    other = [SimpleNamespace(model_type="llama")]
    monkeypatch.setattr("specact_rl.pipeline.preflight.check_bases", lambda *_: other)
    preset = find_preset("smoke")
    check_before_run(preset, 0, Servers.of(preset))
