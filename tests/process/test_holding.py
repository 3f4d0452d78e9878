"""What a supervisor holds: all of it, or nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.config import AdminConfig, GatewayConfig
from gateway.process.holding import Overrides, hold
from gateway.process.pidfile import PidFileError, claim
from gateway.process.sockets import ListenError


def config(tmp_path: Path, **more: object) -> GatewayConfig:
    return GatewayConfig.model_validate(
        {
            "listen": f"unix:{tmp_path}/gateway.sock",
            "probes": {"listen": "127.0.0.1:0"},
            "pidfile": f"{tmp_path}/gateway.pid",
            **more,
        }
    )


def test_all_is_held_until_it_is_closed(tmp_path: Path) -> None:
    """Then no file is left."""
    holdings = hold(config(tmp_path), Overrides(), 1)
    assert holdings.url == f"unix:{tmp_path}/gateway.sock"
    assert holdings.probes_url is not None
    assert (tmp_path / "gateway.pid").read_text() == f"{os.getpid()}\n"
    holdings.close_all()
    assert not [*tmp_path.iterdir()]


def test_the_command_line_counts(tmp_path: Path) -> None:
    overrides = Overrides(
        listen="127.0.0.1:0", probes="[::1]:0", pidfile=tmp_path / "another.pid"
    )
    holdings = hold(config(tmp_path), overrides, 1)
    assert holdings.url.startswith("http://127.0.0.1:")
    assert (holdings.probes_url or "").startswith("http://[::1]:")
    assert [*tmp_path.iterdir()] == [tmp_path / "another.pid"]
    holdings.close_all()


def test_without_probes_and_a_pidfile(tmp_path: Path) -> None:
    holdings = hold(config(tmp_path, probes={}, pidfile=None), Overrides(), 1)
    assert (holdings.probes, holdings.pidfile) == (None, None)
    assert holdings.probes_url is None
    holdings.close_pidfile()
    holdings.close_all()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """Neither sockets nor files, whatever fails."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match="is in use"):
            hold(config(tmp_path), Overrides(probes=busy), 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(PidFileError, match="can't be used"):
        hold(config(tmp_path, pidfile="/proc/none/gateway.pid"), Overrides(), 1)
    assert [*tmp_path.iterdir()] == [tmp_path / "folder"]


def test_a_running_gateway_is_named_before_its_port(tmp_path: Path) -> None:
    """The same file twice: the message is about the gateway, not about a port."""
    gateway = config(tmp_path)
    held = hold(gateway, Overrides(), 1)
    with pytest.raises(PidFileError, match=f"process {os.getpid()} holds"):
        hold(gateway, Overrides(), 1)
    held.close_all()
    claim(tmp_path / "gateway.pid").remove()


def test_the_admin_listener_of_the_command_line(tmp_path: Path) -> None:
    """It counts in place of the file's, and has the file's token."""
    path = tmp_path / "admin.sock"
    overrides = Overrides(admin=f"unix:{path}")
    holdings = hold(config(tmp_path, admin={"listen": "127.0.0.1:0"}), overrides, 1)
    assert holdings.admin is not None
    assert holdings.admin.config.address == f"unix:{path}"
    assert path.is_socket()
    holdings.close_all()
    changed = overrides.admin_of(AdminConfig(token_file="/token"))
    assert (changed.listen, changed.token_file) == (f"unix:{path}", "/token")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:1", "nonsense"])
def test_an_admin_listener_that_is_refused(tmp_path: Path, listen: str) -> None:
    """Without a token, the network must not reach it. Nothing is left open."""
    with pytest.raises(ListenError, match="can't listen on"):
        hold(config(tmp_path), Overrides(admin=listen), 1)
    assert not [*tmp_path.iterdir()]
