"""What must hold of the project as a whole: layers, wheel, command line, documents."""

import ast
import importlib
import json
import logging
import pkgutil
import random
import re
import shlex
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from specact_rl import cli, programs
from specact_rl.errors import ConfigError
from specact_rl.policy.gates import Gate

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "specact_rl"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in LIBRARY.rglob("*.py")
)
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "recipes/**/*.md", "data_builders/**/*.md")
    for path in ROOT.glob(pattern)
)

MEGABYTE = 2**20


def run_python(*args, **kwargs):
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=300, **kwargs
    )


def project_files():
    """Tracked files, and those that would be if everything were added."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def fenced_lines(document):
    """Lines of code blocks, continuation lines joined, comments removed."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = run_python("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    assert built.returncode == 0, built.stderr
    [path] = folder.glob("*.whl")
    return path


# Layers and modules


def test_modules_import_only_what_stands_below_them():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    linted = run_python("-c", command, "--no-cache", cwd=ROOT)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "1 kept, 0 broken" in linted.stdout


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module):
    importlib.import_module(module)


def test_modules_were_found():
    assert {"specact_rl", "specact_rl.cli", "specact_rl.types"} <= set(MODULES)


@pytest.mark.parametrize("folder", ["specact_rl", "recipes", "data_builders", "evaluate_modules"])
def test_nothing_prints_but_the_command_line(folder):
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / folder).rglob("*.py")
        if path.parent != LIBRARY / "cli"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print"
    ]
    assert offenders == []


# Files and dependencies


def test_no_file_is_large_but_the_shipped_weights():
    files = project_files()
    assert ROOT / "pyproject.toml" in files
    weights = [p for p in files if p.suffix == ".safetensors" and p.is_relative_to(LIBRARY)]
    large = [p for p in set(files) - set(weights) if p.stat().st_size > MEGABYTE]
    assert large == []
    assert sum(p.stat().st_size for p in weights) <= 12 * MEGABYTE


def test_constraints_pin_every_dependency_but_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if not line.startswith("#")}
    names = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in wanted}
    assert names - pinned == {"torch"}
    assert not {name for name in pinned if name.startswith(("torch", "nvidia", "triton"))}


def test_wheel_adds_one_top_level_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"specact_rl"}
    assert "specact_rl/py.typed" in names


def test_wheel_carries_every_program_and_config(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"specact_rl/_programs/{path.relative_to(ROOT).as_posix()}"
        for path in project_files()
        if path.relative_to(ROOT).parts[0] in programs.PROGRAM_KINDS
    }
    assert expected
    assert expected <= names


def test_installed_wheel_copies_its_own_programs(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    out = tmp_path / "out"
    # -P: the working directory must not lend its checkout.
    command = ["-P", "-m", "specact_rl.cli", "recipes", "--copy", str(out)]
    copied = run_python(*command, cwd=tmp_path, env={"PYTHONPATH": str(site)})
    assert copied.returncode == 0, copied.stderr
    copies = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    carried = site / "specact_rl" / "_programs"
    assert copies == {p.relative_to(carried).as_posix() for p in carried.rglob("*") if p.is_file()}


# Programs


def make_checkout(root, monkeypatch):
    package = root / "specact_rl"
    package.mkdir(parents=True)
    monkeypatch.setattr(programs, "__file__", str(package / "programs.py"))
    return package


def write_program(path, docstring):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'"""{docstring}\n\nMore.\n"""\n', encoding="utf-8")


def test_programs_of_the_checkout_come_before_those_of_the_wheel(tmp_path, monkeypatch):
    package = make_checkout(tmp_path, monkeypatch)
    write_program(package / "_programs" / "recipes" / "sft.py", "From the wheel.")
    write_program(tmp_path / "recipes" / "sft.py", "From the checkout.")
    (tmp_path / "pyproject.toml").touch()
    assert programs.find_program("recipes", "sft") == tmp_path / "recipes" / "sft.py"
    assert [p.summary for p in programs.list_programs()] == ["From the checkout."]


def test_a_neighbour_called_recipes_is_not_ours(tmp_path, monkeypatch):
    package = make_checkout(tmp_path, monkeypatch)
    write_program(package / "_programs" / "recipes" / "sft.py", "Ours.")
    write_program(tmp_path / "recipes" / "sft.py", "Of another package.")
    assert [p.summary for p in programs.list_programs()] == ["Ours."]


def test_an_unknown_program_is_refused_with_the_known_ones(tmp_path, monkeypatch):
    package = make_checkout(tmp_path, monkeypatch)
    write_program(package / "_programs" / "data_builders" / "build_sft.py", "Rows.")
    with pytest.raises(ConfigError, match=r"no program 'build_stf'.*\['build_sft'\]"):
        programs.find_program("data_builders", "build_stf")


def test_default_config_is_that_of_the_tiny_preset(tmp_path, monkeypatch):
    package = make_checkout(tmp_path, monkeypatch)
    config = package / "_programs" / "recipes" / "configs" / "tiny" / "sft.yaml"
    with pytest.raises(ConfigError, match="--config"):
        programs.default_config("sft")
    config.parent.mkdir(parents=True)
    config.touch()
    assert programs.default_config("sft") == config


def test_copying_programs_overwrites_nothing(tmp_path, monkeypatch):
    package = make_checkout(tmp_path, monkeypatch)
    for kind in programs.PROGRAM_KINDS:
        write_program(package / "_programs" / kind / "one.py", "One.")
    dest = tmp_path / "dest"
    mine = dest / "data_builders" / "mine.py"
    write_program(mine, "Mine.")
    with pytest.raises(ConfigError, match="not overwritten"):
        programs.copy_programs(dest)
    assert [p for p in dest.rglob("*") if p.is_file()] == [mine]


# Command line


def test_help_loads_no_heavy_library():
    script = (
        "import sys\n"
        "from specact_rl import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'scipy', 'sklearn', 'pyarrow'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    shown = run_python("-c", script)
    assert shown.returncode == 0, shown.stderr
    assert "example:" in shown.stdout


def test_what_is_for_trainings_alone_is_not_loaded_by_a_run_that_is_refused(tmp_path):
    """bitsandbytes speaks when it is imported; peft imports it, and trainers import that."""
    script = (
        "import sys\n"
        "from specact_rl import cli\n"
        f"command = ['run', '--preset', 'smoke', '--out', {str(tmp_path / 'out')!r}]\n"
        "assert cli.main([*command, '--verifier-base', 'org/modle']) == 2\n"
        "heavy = {'bitsandbytes', 'peft', 'trl'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    shown = run_python("-c", script)
    assert shown.returncode == 0, shown.stderr
    assert re.fullmatch(r"specact: error: --verifier-base[^\n]*\n", shown.stderr)


def test_a_user_error_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "recipes").mkdir()
    assert cli.main(["recipes", "--copy", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"specact: error: \S+recipes exists[^\n]*\n", shown.err)


def test_an_interrupt_is_exit_code_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(programs, "list_programs", interrupted)
    assert cli.main(["recipes", "--list"]) == 130


def test_a_command_leaves_logging_as_it_was():
    logger = logging.getLogger("specact_rl")
    before = (list(logger.handlers), logger.level)
    assert cli.main(["recipes", "--list"]) == 0
    assert (list(logger.handlers), logger.level) == before


def write_scores(path, unlabelled=0):
    """80 tasks of 3 rows; a score above 0 is acceptable three times in four, below once."""
    rng = random.Random(0)
    lines = ["task,score,good"]
    for task in range(80):
        for _ in range(3):
            score = rng.choice([-2.0, -1.0, 1.0, 2.0])
            lines.append(f"{task},{score},{int(rng.random() < (0.75 if score > 0 else 0.25))}")
    lines += ["80,1.0,"] * unlabelled
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["calibrate", "--table", str(path), "--score", "score", "--label", "good"]


def test_calibrate_prints_markdown_and_writes_json(tmp_path, capsys):
    command = write_scores(tmp_path / "scores.csv", unlabelled=2)
    out = tmp_path / "report.json"
    assert cli.main([*command, "--cluster", "task", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("# ")
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["num_rows"] == 242
    assert report["dropped"]["no_label"] == 2


def test_calibrate_writes_a_gate_that_can_be_read(tmp_path, capsys):
    command = write_scores(tmp_path / "scores.csv")
    out = tmp_path / "report.json"
    options = ["--cluster", "task", "--out", str(out), "--gate", str(tmp_path / "gate.json")]
    assert cli.main([*command, *options]) == 0
    gate = Gate.from_json(json.loads((tmp_path / "gate.json").read_text(encoding="utf-8")))
    report = json.loads(out.read_text(encoding="utf-8"))
    assert gate.calibrator.to_json() == report["calibrator"]
    assert gate.threshold == report["choice"]["threshold"]


def test_calibrate_writes_report_and_gate_to_two_files(tmp_path, capsys):
    command, path = write_scores(tmp_path / "scores.csv"), str(tmp_path / "one.json")
    assert cli.main([*command, "--out", path, "--gate", path]) == 2
    assert "must be two files" in capsys.readouterr().err


def test_calibrate_gives_the_same_report_for_the_same_seed(tmp_path, capsys):
    command = write_scores(tmp_path / "scores.csv")
    reports = {}
    for name, seed in [("first", "1"), ("again", "1"), ("other", "2")]:
        assert cli.main([*command, "--seed", seed]) == 0
        reports[name] = capsys.readouterr().out
    assert reports["first"] == reports["again"] != reports["other"]


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--cluster", "tusk"], "'tusk'"),
        (["--scale", "probability"], "must lie in [0, 1]"),
        (["--out", "."], "not overwritten"),
        (["--gate", "."], "choose another --gate"),
    ],
)
def test_calibrate_refuses_what_does_not_fit(tmp_path, capsys, extra, complaint):
    command = write_scores(tmp_path / "scores.csv")
    assert cli.main([*command, *extra]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert complaint in shown.err


# Documents


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    used = {
        word
        for document in DOCUMENTS
        for line in fenced_lines(document)
        if line.startswith("make ")
        for word in line.split()[1:]
        if re.fullmatch(r"[a-z]+", word)
    }
    assert {"demo", "test"} <= used
    assert used <= targets


def test_documented_commands_parse():
    commands = [
        line
        for document in DOCUMENTS
        for line in fenced_lines(document)
        if line.startswith("specact ")
    ]
    assert commands
    for command in commands:
        cli.build_parser().parse_args(shlex.split(command)[1:])


# The test suite itself


def test_tests_cannot_reach_other_hosts():
    with pytest.raises(RuntimeError, match="tried to reach the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_tests_can_reach_this_host():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_every_function_that_the_page_of_metrics_names_is_there():
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", text))
    named -= {name for name in named if name.endswith((".md", ".py", ".load"))}
    assert len(named) > 40
    for name in sorted(named):
        assert pkgutil.resolve_name(f"specact_rl.metrics.{name}"), name
