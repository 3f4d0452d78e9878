"""Which files a load has read, and whether they have changed since."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.settings import ConfigError, load
from gateway.settings.files_read import Found, joined, now, recording

MAIN = """\
version: 1
include: ["routes.d/*.yaml"]
supertokens: {connection_uri: "http://c", api_key: "${file:SECRET}", recipes: {}}
"""
PART = "routes: [{path: /PATH, respond: {status: 204}, protected: false}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as Kubernetes mounts it: a link to what `..data` links to."""
    for version in ("v1", "v2"):
        parts = tmp_path / version / "routes.d"
        parts.mkdir(parents=True)
        main = MAIN.replace("SECRET", f"{tmp_path}/secret")
        (tmp_path / version / "routes.yaml").write_text(main)
        (parts / "a.yaml").write_text(PART.replace("PATH", version))
    (tmp_path / "secret").write_text("s" * 20)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "routes.yaml").symlink_to("..data/routes.yaml")
    (tmp_path / "routes.d").symlink_to("..data/routes.d")
    return tmp_path


def read(folder: Path) -> Found:
    with recording() as found:
        load(folder / "routes.yaml", {})
    return found


def swap(folder: Path) -> None:
    (folder / "..tmp").symlink_to("v2")
    (folder / "..tmp").rename(folder / "..data")


def replace_secret(folder: Path) -> None:
    """With the same size and time, as a tool that keeps times does."""
    before = (folder / "secret").stat()
    (folder / "new").write_text("t" * 20)
    os.utime(folder / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "new").rename(folder / "secret")


def add_part(folder: Path) -> None:
    (folder / "v1" / "routes.d" / "b.yaml").write_text(PART)


def remove(folder: Path) -> None:
    (folder / "secret").unlink()


CHANGES: dict[str, Callable[[Path], None]] = {
    "the folder is swapped": swap,
    "a file is replaced": replace_secret,
    "a pattern finds another one": add_part,
    "a file is gone": remove,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_what_was_read_is_seen(folder: Path, name: str) -> None:
    """By content, whatever the times and the inodes are."""
    found = read(folder)
    assert now(found) == joined(found)
    CHANGES[name](folder)
    assert now(found) != joined(found)


def test_what_leaves_the_content_is_no_change(folder: Path) -> None:
    """A new time, or a copy in the place of a file."""
    found = read(folder)
    os.utime(folder / "secret", (1, 1))
    (folder / "copy").write_bytes((folder / "secret").read_bytes())
    (folder / "copy").rename(folder / "secret")
    assert now(found) == joined(found)


def test_the_files_of_a_refused_configuration_are_known(folder: Path) -> None:
    """One that is missing, too: when it comes, the file is loaded again."""
    (folder / "secret").unlink()
    with recording() as found, pytest.raises(ConfigError):
        load(folder / "routes.yaml", {})
    assert now(found) == joined(found)
    (folder / "secret").write_text("s" * 20)
    assert now(found) != joined(found)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    """It has no content."""
    found = read(folder)
    (folder / "secret").unlink()
    os.mkfifo(folder / "secret")
    assert now(found) != joined(found)


def test_nothing_is_recorded_outside(folder: Path) -> None:
    with recording() as found:
        pass
    load(folder / "routes.yaml", {})
    assert found == {}
