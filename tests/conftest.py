"""Every test runs offline: no hub, and no host but this one unless marked `network`."""

import ipaddress
import os
import socket

import hypothesis
import pytest

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
