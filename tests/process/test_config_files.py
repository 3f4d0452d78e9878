"""Which files the hub is to watch, after loads that succeed and loads that fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gateway.process import config_files
from gateway.process.config_files import ConfigFiles
from gateway.settings import ConfigError, Settings, load

MAIN = """\
version: 1
{gateway}
supertokens: {{connection_uri: "http://core:3567", recipes: {{}}}}
services:
  up: {{targets: ["https://up:443"], tls: {{ca_file: ca.pem}}}}
routes:
  - {{path: /, service: up, protected: false}}
"""
WATCHED = 'gateway: {watch: {interval: "7s"}}'


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Settings]:
    """Write the file with a text for `gateway`, and load it."""

    def read(gateway: str) -> Settings:
        path = tmp_path / "routes.yaml"
        path.write_text(MAIN.format(gateway=gateway), encoding="utf-8")
        return load(path, environ={})

    return read


def test_what_was_read_is_watched(
    read: Callable[[str], Settings], tmp_path: Path
) -> None:
    """So are the services' authorities, which only workers read."""
    files = ConfigFiles()
    files.load(partial(read, WATCHED))
    watched = files.watch()
    assert watched is not None
    assert watched.interval_s == 7
    names = [name.removeprefix("=:") for name in watched.names]
    assert str(tmp_path / "routes.yaml") in names
    assert any(name.endswith("ca.pem") for name in names)


@pytest.mark.parametrize(
    ("text", "is_forced", "is_watched"),
    [("", False, False), ("", True, True), (WATCHED, False, True)],
)
def test_the_file_or_the_command_line_asks_for_it(
    read: Callable[[str], Settings], text: str, is_forced: bool, is_watched: bool
) -> None:
    """`--watch` and `gateway.watch`; with neither, nothing is watched."""
    files = ConfigFiles(is_forced=is_forced)
    files.load(partial(read, text))
    assert (files.watch() is not None) is is_watched


def test_a_file_that_is_refused_is_watched_too(
    read: Callable[[str], Settings],
) -> None:
    """Its correction must be seen, and so must a change of what was read before."""
    files = ConfigFiles()
    files.load(partial(read, WATCHED))
    before = files.watch()
    with pytest.raises(ConfigError):
        files.load(partial(read, "nonsense: true"))
    after = files.watch()
    assert before is not None
    assert after is not None
    assert set(before.names) <= set(after.names)
    assert before.loaded != after.loaded


def test_too_many_names_are_not_watched(
    read: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is there for a warning; without watching there is none."""
    monkeypatch.setattr(config_files, "_MAX_NAMES", 20)
    files = ConfigFiles()
    files.load(partial(read, WATCHED))
    assert files.watch() is None
    assert files.doubt is not None
    files.load(partial(read, ""))
    assert files.doubt is None
