"""What an upgrade leaves to the next gateway: the sockets of the same addresses.

test_workers_upgrade.py passes them between real processes.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from gateway.config import GatewayConfig, ListenConfig
from gateway.process.holding import Overrides, hold
from gateway.process.inheriting import VARIABLE, Inheritance, NotHandedOver, inherited
from gateway.process.listening import BoundListen, close_listens, open_listens
from gateway.process.sockets import ListenError


def left(bound: list[BoundListen], **more: Any) -> Inheritance:
    """Return what is made of copies of *bound*, as in the next gateway."""
    ours, theirs = socket.socketpair()
    ours.close()
    facts = {
        "form": 1,
        "pid": os.getppid(),
        "sdk": "",
        "channel": theirs.detach(),
        "listens": [
            {
                "address": one.config.address,
                "descriptors": [sock.dup().detach() for sock in one.sockets],
                "file": one.file,
                "mode": one.config.mode,
                "owner": one.config.owner,
            }
            for one in bound
        ],
        **more,
    }
    environ = {VARIABLE: json.dumps(facts)}
    found = inherited(environ)
    assert environ == {}
    assert found is not None
    found.channel.close()
    return found


def config(*listens: str) -> GatewayConfig:
    return GatewayConfig.model_validate({"listen": [*listens]})


def test_an_ordinary_start_inherits_nothing() -> None:
    assert inherited({}) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"form": 2, "pid": 1}', '{"form": 1, "pid": 1}']
)
def test_what_this_version_does_not_leave_is_refused(text: str) -> None:
    with pytest.raises(NotHandedOver, match="restart the gateway"):
        inherited({VARIABLE: text})


def test_sockets_are_taken_over_and_files_follow_later(tmp_path: Path) -> None:
    """Until the take-over, nothing that the next gateway does removes a file."""
    kept, gone = f"unix:{tmp_path}/kept", f"unix:{tmp_path}/gone"
    old = open_listens([ListenConfig(address=one) for one in (kept, gone)], 1)
    failed = hold(config(kept), Overrides(), 1, left(old))
    failed.close_all()
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "gone"}
    new = hold(config(kept), Overrides(), 1, left(old))
    new.take_over()
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/kept")
    new.close_all()
    assert not [*tmp_path.iterdir()]
    close_listens(old)


def test_a_changed_mode_of_a_socket_s_file_is_refused(tmp_path: Path) -> None:
    old = open_listens([ListenConfig(address=f"unix:{tmp_path}/s", mode="0660")], 1)
    before = left(old)
    named = ListenConfig(address=f"unix:{tmp_path}/s", mode="0666")
    with pytest.raises(ListenError, match="mode or owner has changed"):
        before.take(named)
    before.close_rest()
    close_listens(old)
