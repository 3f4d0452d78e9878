"""What `gateway reload` is told: the reloads that have ended, and their outcome."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import config
from gateway.config.diff import ConfigChange
from gateway.process.pidfile import PidFile, PidFileError, claim, state_path
from gateway.process.reload_state import ReloadNotes, read

OTHERS = """{
    "pid": 1, "begun": 0, "ended": 0, "generation": 1, "problems": [], "changes": [],
    "key": "", "serving": []
}"""
CHANGE = ConfigChange("added", "route orders")


@pytest.fixture
def pidfile(tmp_path: Path) -> Iterator[PidFile]:
    held = claim(tmp_path / "gateway.pid")
    yield held
    held.remove()


def test_each_reload_is_counted(pidfile: PidFile) -> None:
    """A reload that has begun has the outcome of the one before until it ends."""
    notes, path, pid = ReloadNotes(pidfile), pidfile.path, os.getpid()
    notes.start(({"route a": {"path": "1"}},))
    state = read(path, pid)
    assert (state.begun, state.ended, state.generation) == (0, 0, 1)
    notes.begin()
    state = read(path, pid)
    assert (state.begun, state.ended, state.serving) == (
        1,
        0,
        ({"route a": {"path": "1"}},),
    )
    notes.end(2, (), (CHANGE,), ({"route a": {"path": "2"}},))
    state = read(path, pid)
    assert (state.begun, state.ended, state.generation) == (1, 1, 2)
    assert (state.problems, state.changes) == ((), ("route orders added",))
    assert state.serving == ({"route a": {"path": "2"}},)
    notes.begin()
    notes.end(2, ("1:1: bad",), (), ({"route a": {"path": "2"}},))
    state = read(path, pid)
    assert (state.begun, state.ended, state.generation) == (2, 2, 2)
    assert (state.problems, state.changes) == (("1:1: bad",), ())


def test_only_the_user_reads_it_and_it_goes_with_the_pidfile(pidfile: PidFile) -> None:
    """Its fingerprints could be guessed from; nothing is left in the folder."""
    notes = ReloadNotes(pidfile)
    notes.start(notes.fingerprints(config.parse({"version": 1})))
    path = state_path(pidfile.path)
    assert path.stat().st_mode & 0o777 == 0o600
    pidfile.remove()
    assert not any(path.parent.iterdir())


def test_nothing_is_written_without_a_pidfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = ReloadNotes(None)
    assert notes.fingerprints(config.parse({"version": 1})) == ()
    notes.start(())
    notes.begin()
    notes.end(2, (), (), ())
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    """The gateway goes on; only the command doesn't know the outcome."""
    folder = tmp_path / "run"
    folder.mkdir()
    held = claim(folder / "gateway.pid")
    notes = ReloadNotes(held)
    (folder / "gateway.pid").unlink()
    folder.rmdir()
    notes.start(())
    notes.begin()
    held.remove()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "can't be read: No such file"),
        ("{", "isn't a gateway's state"),
        ("[]", "isn't a gateway's state"),
        ('{"pid": 1}', "isn't a gateway's state"),
        (OTHERS, "is of process 1, not of "),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    """With a message that names it."""
    path = tmp_path / "gateway.pid"
    if text is not None:
        state_path(path).write_text(text)
    with pytest.raises(PidFileError, match=message):
        read(path, os.getpid())
