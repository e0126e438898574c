"""Small processes in the place of run, launcher and recipe; none of them imports torch."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from specact_rl.models import tied

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 10.0
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
IMPORTING = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
RUN = """
import os, subprocess, sys
from specact_rl.models import tied
tie = [tied.__file__, tied.identity(os.getpid())]
launcher, recipe, begun = sys.argv[1:]
subprocess.call([sys.executable, *tie, launcher, *tie, recipe, begun])
"""


def wait_for(condition):
    end = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def pids_with(text):
    """Processes with this text on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (path / "cmdline").read_text()
        except OSError:
            continue
        if text in arguments and tied.identity(int(path.name)) is not None:
            found.append(int(path.name))
    return found


@pytest.fixture
def script(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def own():
    return tied.identity(os.getpid())


def call(*arguments, **options):
    return subprocess.run(
        [sys.executable, tied.__file__, *arguments], capture_output=True, text=True, **options
    )


def test_recipe_that_still_imports_ends_with_its_killed_run(script, tmp_path):
    begun = tmp_path / "begun"
    scripts = [script("launcher.py", LAUNCHER), script("recipe.py", IMPORTING), str(begun)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, "-c", RUN, *scripts], env=environment)
    assert wait_for(begun.exists)
    assert len(pids_with(str(begun))) == 3
    run.kill()
    run.wait()
    assert wait_for(lambda: not pids_with(str(begun)))


def test_program_ends_with_an_owner_that_is_not_its_parent(script, tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    begun = tmp_path / "begun"
    recipe = script("recipe.py", IMPORTING)
    command = [sys.executable, tied.__file__, tied.identity(owner.pid), recipe, str(begun)]
    program = subprocess.Popen(command)
    assert wait_for(begun.exists)
    owner.kill()
    owner.wait()
    assert program.wait(LIMIT_S) == 1


@pytest.mark.parametrize("later", [False, True], ids=["nobody", "later process of its number"])
def test_program_of_an_owner_that_is_gone_does_not_begin(later, script, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    owner = tied.identity(ended.pid)
    ended.wait()
    if later:
        owner = own() + "0"
    begun = tmp_path / "begun"
    assert call(owner, script("recipe.py", IMPORTING), str(begun)).returncode == 1
    assert not begun.exists()


def test_process_that_waits_to_be_reaped_has_ended():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    assert tied.identity(ended.pid) is not None
    assert wait_for(lambda: tied.identity(ended.pid) is None)
    ended.wait()


def test_program_cannot_tell_that_it_is_tied(script, tmp_path):
    seen = "import json, sys; print(json.dumps([__name__, sys.argv, sys.path]))"
    program = [script("recipe.py", seen), "--config", "x"]
    plain = subprocess.check_output([sys.executable, *program], text=True)
    assert json.loads(call(own(), *program).stdout) == json.loads(plain)

    plain = subprocess.check_output(
        [sys.executable, "-m", "recipe", "--x"], text=True, cwd=tmp_path
    )
    assert json.loads(call(own(), "-m", "recipe", "--x", cwd=tmp_path).stdout) == json.loads(plain)


def test_exit_code_is_the_programs(script):
    assert call(own(), script("recipe.py", "raise SystemExit(2)")).returncode == 2
