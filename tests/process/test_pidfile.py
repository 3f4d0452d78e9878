"""The pidfile: who holds it, and who gets a signal."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.process.pidfile import (
    PidFileError,
    RunningGateway,
    claim,
    refuse_if_held,
    running,
    send,
)

HOLDER = """\
import sys
from pathlib import Path
from gateway.process.pidfile import claim
held = claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
"""Holds a pidfile until its standard input ends or it is killed."""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the pidfile at *path* for the block."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.pid"


def test_the_file_has_the_pid_until_it_is_removed(path: Path) -> None:
    """Everyone can read it, and no other file is left in its folder."""
    held = claim(path)
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [*path.parent.iterdir()] == [path]
    found = running(path)
    assert found is not None
    assert found.pid == os.getpid()
    held.remove()
    assert not path.exists()
    held.remove()  # nothing happens


def test_a_running_gateway_keeps_its_file(path: Path) -> None:
    """A second one is refused, and leaves no file behind."""
    with holder(path) as process:
        before = path.read_bytes(), path.stat().st_ino
        for refused in (claim, refuse_if_held):
            with pytest.raises(
                PidFileError, match=rf"process {process.pid} holds .*gateway\.pid"
            ):
                refused(path)
        assert (path.read_bytes(), path.stat().st_ino) == before
        assert [*path.parent.iterdir()] == [path]


def test_a_killed_gateway_is_not_running(path: Path) -> None:
    """Whoever has its process id now gets no signal, and its file is replaced."""
    with holder(path) as process:
        gateway = running(path)
        assert gateway is not None
        process.kill()
        process.wait()
        assert path.read_text() == f"{process.pid}\n"
        assert running(path) is None
        assert not send(gateway, path, signal.SIGTERM)
        refuse_if_held(path)
        held = claim(path)
        assert path.read_text() == f"{os.getpid()}\n"
        held.remove()


def test_a_recycled_pid_gets_no_signal(path: Path) -> None:
    """The file names a process that lives, but doesn't hold it."""
    with holder(path.with_name("another")) as bystander:
        path.write_text(f"{bystander.pid}\n")
        assert running(path) is None
        assert not send(RunningGateway(bystander.pid, 0.0), path, signal.SIGKILL)
        assert bystander.poll() is None


def test_the_gateway_gets_a_signal(path: Path) -> None:
    with holder(path) as process:
        gateway = running(path)
        assert gateway is not None
        assert send(gateway, path, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        assert not send(gateway, path, signal.SIGTERM)


def test_another_process_s_file_stays(path: Path) -> None:
    """`remove` compares the files, not the process ids in them."""
    held = claim(path)
    path.unlink()
    path.write_text(f"{os.getpid()}\n")
    held.remove()
    assert path.exists()


def test_a_forked_copy_of_the_lock_counts_until_it_is_closed(path: Path) -> None:
    held = claim(path)
    copy = os.dup(held._descriptor)
    held.close()
    assert running(path) is not None
    os.close(copy)
    assert running(path) is None


@pytest.mark.parametrize("text", ["", "x\n", "-1\n", "0\n", "1 2\n", "9" * 99])
def test_another_file_is_never_replaced(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(PidFileError, match="isn't a pidfile: remove it"):
        claim(path)
    assert path.read_text() == text
    assert [*path.parent.iterdir()] == [path]


def test_what_is_no_file_is_refused(path: Path) -> None:
    """A link, too: it could make the gateway replace any file."""
    os.mkfifo(path)
    with pytest.raises(PidFileError, match="isn't a pidfile"):
        running(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(PidFileError, match="can't be used"):
        claim(path)
    assert path.is_symlink()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "gateway.pid"
    assert running(path) is None
    with pytest.raises(PidFileError, match="can't be used: No such file or directory"):
        claim(path)


def test_a_file_passes_from_one_gateway_to_the_next(path: Path) -> None:
    """While the one before holds it, and to that one's successor only.

    Nobody sees the file missing or unlocked, and the one before doesn't remove it.
    """
    with holder(path) as before:
        refuse_if_held(path, before=before.pid)
        with pytest.raises(PidFileError, match="is running already"):
            claim(path, before=before.pid + 1)
        held = claim(path, before=before.pid)
        found = running(path)
        assert found is not None
        assert found.pid == os.getpid()
    assert running(path) == found
    held.remove()
    assert not path.exists()
