"""Facts about the container, its limits, its sockets and its output."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

from gateway.config import ListenAddress
from gateway.doctor import surroundings


def test_a_container_is_recognised(tmp_path: Path) -> None:
    """By the file of its runtime, or by its environment."""
    assert not surroundings.is_container({}, tmp_path)
    assert not surroundings.is_container({"container": ""}, tmp_path)
    assert surroundings.is_container({"container": "podman"}, tmp_path)
    kubernetes = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert surroundings.is_container(kubernetes, tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert surroundings.is_container({}, tmp_path)


def test_the_hard_limit_counts() -> None:
    """`serve` raises the soft one to it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert surroundings.descriptor_limit() in (hard, None)


def test_a_unix_socket_to_listen_on(tmp_path: Path) -> None:
    """Free, in use, left behind, no directory, and a file of another kind."""
    path = tmp_path / "a.sock"
    address = ListenAddress(socket_path=str(path))

    def state() -> tuple[str, bool]:
        facts = surroundings.unix_listen(address)
        return facts.trouble, facts.is_in_use

    assert state() == ("", False)
    assert not path.exists(), "it only looks"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert state() == ("", True)
    assert state() == ("", False)
    assert path.exists(), "it only looks"
    path.unlink()
    path.touch()
    assert "isn't a socket" in state()[0]
    gone = ListenAddress(socket_path=str(tmp_path / "no" / "a.sock"))
    assert "doesn't exist" in surroundings.unix_listen(gone).trouble


def test_where_output_leads(tmp_path: Path) -> None:
    """A file has a disk; a pipe doesn't; a descriptor for reading can't be written."""
    with (tmp_path / "log").open("w") as file:
        found = surroundings.standard_output(file.fileno())
        assert found.trouble == ""
        assert found.free_bytes is not None
        assert found.free_bytes > 0
    receiver, sender = os.pipe()
    try:
        assert surroundings.standard_output(sender).free_bytes is None
        assert surroundings.standard_output(receiver).trouble
    finally:
        os.close(receiver)
        os.close(sender)
    assert surroundings.standard_output(sender).trouble == "Bad file descriptor"
