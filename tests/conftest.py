"""Every test runs offline, and has `make` for small records that are written down by hand.

Offline: no hub, and no host but this one unless marked `network`.
"""

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

from specact_rl.actions.serialise import action_message, action_text
from specact_rl.types import Action, Proposal, Rollout, StepRecord, ToolSpec, proposal_id
from tests.fake_server import ChatServer

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


def _schema(*names, **properties):
    properties = {name: {"type": "string"} for name in names} | properties
    return {"type": "object", "properties": properties, "required": list(properties)}


TOOLS = [
    ToolSpec(name="read_file", parameters=_schema("file"), effect="read", action_type="file_read"),
    ToolSpec(name="delete_file", parameters=_schema("file"), effect="irreversible"),
    ToolSpec(name="find", parameters=_schema("query"), effect="read", action_type="retrieval"),
    ToolSpec(
        name="rank",
        parameters=_schema("ticket", level={"type": "string", "enum": ["low", "high"]}),
        effect="write",
    ),
    ToolSpec(name="secret", parameters=_schema("file"), documented=False),
]


def call(tool, /, **arguments):
    return Action(type="tool_call", tool=tool, arguments=arguments)


def say(text):
    return Action(type="ask_clarification" if text.endswith("?") else "final_answer", text=text)


def make_rollout(
    turns, *, task="t1", name=None, success=None, request="Tidy up f1 and f2.", policy="p", **fields
):
    """One step per turn: (what was done, what came back, reference), or the first alone.

    What was done is an Action, or a string that could not be parsed.
    """
    messages = [{"role": "system", "content": "Help."}, {"role": "user", "content": request}]
    steps = []
    for index, turn in enumerate(turns):
        done, reply, reference = (
            (*turn, None, None)[:3] if isinstance(turn, tuple) else (turn, None, None)
        )
        parsed = isinstance(done, Action)
        steps.append(
            StepRecord(
                index=index,
                message_index=len(messages),
                executed=done if parsed else None,
                executed_text=None if parsed else done,
                reference=reference,
            )
        )
        messages.append(action_message(done) if parsed else {"role": "assistant", "content": done})
        if reply is not None:
            role = "tool" if parsed and done.tool else "user"
            messages.append({"role": role, "content": reply})
    values = {"family": "f", "trial": 0, "tools": TOOLS, "split": "train_verifier"} | fields
    return Rollout(
        rollout_id=name or f"{task}/{policy}/{values['trial']}",
        task_id=task,
        policy=policy,
        messages=messages,
        steps=steps,
        success=success,
        **values,
    )


def make_proposal(step, action, acceptable, *, sample=0, model="m", mode="generate", **fields):
    """A proposal at a step; a string stands for text that could not be parsed."""
    parsed = isinstance(action, Action)
    unknown = dict.fromkeys(("same_state", "logprob", "num_candidates"))
    counts = {"num_prompt_tokens": 1, "num_cached_tokens": 0, "num_completion_tokens": 1}
    values = {"match_level": "none", "label_source": "test", "seconds": 0.0} | unknown | counts
    return Proposal(
        proposal_id=proposal_id(step.step_id, model, mode, sample),
        step_id=step.step_id,
        task_id=step.task_id,
        model_id=model,
        sample=sample,
        mode=mode,
        text=action_text(action) if parsed else action,
        action=action if parsed else None,
        parse_error=None if parsed else "unparsable",
        acceptable=acceptable,
        **(values | fields),
    )


@pytest.fixture(scope="session")
def make():
    """`make.rollout(turns)`, `make.proposal(step, action, label)`, `make.call`, `make.say`."""
    return SimpleNamespace(rollout=make_rollout, proposal=make_proposal, call=call, say=say)


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
