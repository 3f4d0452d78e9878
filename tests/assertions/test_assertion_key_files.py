"""The files of keys: what is read, refused and written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.assertions import BadAssertionKeys, check, generate, load
from gateway.cli import main
from gateway.config import AssertionConfig
from gateway.settings.files_read import recording


def settings(*names: str | Path) -> AssertionConfig:
    return AssertionConfig(keys=tuple(map(str, names)))


def messages(*names: str | Path) -> list[tuple[object, str]]:
    """Return the place and the message of what is wrong with these files."""
    return [(one.loc[-1], one.message) for one in check(settings(*names))]


def test_a_made_key_is_read_again(tmp_path: Path) -> None:
    """It is private from the start, and the watched files include it."""
    file = tmp_path / "a.pem"
    before = os.umask(0)
    try:
        key = generate(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with recording() as found:
        assert [one.kid for one in load(settings(file))] == [key.kid]
    assert any(str(file) in name for name in found)
    assert messages(file) == []
    assert load(None) == ()
    assert list(check(None)) == []


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_its_owner_and_group_may_read_it(tmp_path: Path, mode: int) -> None:
    """Kubernetes mounts secrets with 0440 for the group of a pod."""
    file = tmp_path / "a.pem"
    generate(file)
    file.chmod(mode)
    assert messages(file) == []


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602, 0o620])
def test_an_exposed_key_is_refused(tmp_path: Path, mode: int) -> None:
    """Others can read it, or others than its owner can replace it."""
    file = tmp_path / "a.pem"
    generate(file)
    file.chmod(mode)
    ((place, message),) = messages(file)
    assert place == 0
    assert "can read the file, or others can write it" in message
    with pytest.raises(BadAssertionKeys, match=r"gateway\.assertion\.keys\[0\]: every"):
        load(settings(file))


def test_each_bad_file_is_found(tmp_path: Path) -> None:
    """Each has its place; none is waited for."""
    key = tmp_path / "a.pem"
    generate(key)
    same = tmp_path / "same.pem"
    same.write_bytes(key.read_bytes())
    same.chmod(0o600)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    long = tmp_path / "long.pem"
    long.write_bytes(key.read_bytes() + b"\n" * 20_000)
    long.chmod(0o600)
    found = messages(key, same, pipe, long, tmp_path / "none.pem", tmp_path, "a\0b")
    assert [place for place, _ in found] == [1, 2, 3, 4, 5, 6]
    assert [message for _, message in found] == [
        "this is the same key as that of keys[0]",
        "the file can't be read: it isn't a regular file",
        "the file is too long for a key",
        "the file can't be read: No such file or directory",
        "the file can't be read: Is a directory",
        "the file can't be read: not the name of a file",
    ]


def test_an_unreadable_key_is_found(tmp_path: Path) -> None:
    """Another user's, for example."""
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    file = tmp_path / "a.pem"
    generate(file)
    file.chmod(0)
    assert messages(file) == [(0, "the file can't be read: Permission denied")]


# --- gateway keygen ---


def test_keygen_says_what_is_next(tmp_path: Path) -> None:
    """The key's id, and where the file is to be listed."""
    file = tmp_path / "a.pem"
    done = CliRunner().invoke(main, ["keygen", str(file)])
    assert done.exit_code == 0
    (key,) = load(settings(file))
    assert f"kid {key.kid}\n" in done.output
    assert "gateway.assertion.keys" in done.output
    assert "PRIVATE" not in done.output


def test_keygen_never_overwrites(tmp_path: Path) -> None:
    """An existing file stays, and so does what a symbolic link leads to."""
    file, link = tmp_path / "a.pem", tmp_path / "link.pem"
    file.write_text("precious")
    link.symlink_to(tmp_path / "elsewhere.pem")
    for name in (file, link):
        done = CliRunner().invoke(main, ["keygen", str(name)])
        assert done.exit_code == 1
        assert "never overwritten" in done.output
    assert file.read_text() == "precious"
    assert not (tmp_path / "elsewhere.pem").exists()
    done = CliRunner().invoke(main, ["keygen", str(tmp_path / "none" / "a.pem")])
    assert (done.exit_code, "No such file" in done.output) == (1, True)


def test_a_key_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, for example: no half of a key is left behind."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        generate(tmp_path / "a.pem")
    assert list(tmp_path.iterdir()) == []
