"""Every test runs offline, and has `make` for small records that are written down by hand.

Offline: no hub, and no host but this one unless marked `network`.
"""

import gc
import importlib.util
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest

from tests.fake_server import ChatServer
from tests.records import call, make_proposal, make_rollout, make_step, say

BASE = Path(__file__).resolve().parents[1] / "specact_rl" / "models" / "bases" / "1m"

# The same examples every time: a change fails for what it did, not for the luck of the draw. For
# a search with new ones: pytest --hypothesis-profile=search
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=500)
hypothesis.settings.load_profile("same")

# Read when huggingface_hub, tokenizers and matplotlib are imported, which test modules do later.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

OUTGOING = ("connect", "connect_ex", "sendto")


class NetworkBlockedError(RuntimeError):
    """Not an OSError: libraries take those for "offline" and go on."""


@pytest.fixture(scope="module", autouse=True)
def _imports_are_not_collected():
    # After each training accelerate looks for garbage among all objects that there are. What is
    # imported is by far the most of them, took longer than a tiny training, and never is garbage.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _loopback_only():
    # For the whole session, so that session fixtures are held to it too. Loopback stays open:
    # gloo and local chat servers need it.
    with pytest.MonkeyPatch.context() as patch:
        for name in OUTGOING:
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        yield


@pytest.fixture(autouse=True)
def _network_where_marked(request, _loopback_only, monkeypatch):
    if request.node.get_closest_marker("network") is not None:
        for name in OUTGOING:
            monkeypatch.setattr(socket.socket, name, getattr(socket.SocketType, name))


def _guarded(method):
    def call(self, *args):
        address = args[-1]  # connect has no other argument, sendto has it last
        if not _is_local(self.family, address):
            raise NetworkBlockedError(
                f"a test tried to reach the network at {address!r}; mark it `network` if it must"
            )
        return method(self, *args)

    return call


def _is_local(family, address):
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = address[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def make():
    """`make.rollout(turns)`, `make.step(request)`, `make.proposal(step, action, label)`,
    `make.call` and `make.say`; see `tests.records`."""
    return SimpleNamespace(
        rollout=make_rollout, step=make_step, proposal=make_proposal, call=call, say=say
    )


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    found = ChatServer()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.released.set()
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """URL and folder of the shipped base behind `transformers serve`."""
    missing = [n for n in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(n) is None]
    if missing:
        pytest.skip(f"transformers serve needs {missing}: pip install 'specact_rl[dev]'")
    folder = tmp_path_factory.mktemp("served") / "base"
    shutil.copytree(BASE, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.with_name("log")
    command = [Path(sys.executable).with_name("transformers"), "serve", folder]
    options = ["--port", port, "--device", "cpu", "--dtype", "float32"]
    with log.open("w") as stream:
        process = subprocess.Popen([*map(str, command + options)], stdout=stream, stderr=stream)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.terminate()
        process.wait(20)
