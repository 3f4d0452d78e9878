"""Files of other formats: read as YAML, with places, and without expansion."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Finding
from gateway.settings import ConfigError
from gateway.settings.foreign import ForeignFile


def test_nothing_is_expanded(tmp_path: Path) -> None:
    """Neither variables nor files of the machine get into what is made of it."""
    file = tmp_path / "a.yaml"
    file.write_text("a: ${HOME}\nb: ${file:/etc/passwd}\n")
    found = ForeignFile(str(file))
    assert found.data == {"a": "${HOME}", "b": "${file:/etc/passwd}"}
    assert found.line(("b",)) == 2
    (problem,) = found.problems((Finding(loc=("b",), message="wrong"),))
    assert str(problem) == f"{file}:2:4: b: wrong"


def test_depth_is_bounded(tmp_path: Path) -> None:
    """Schemas are nested more deeply than routes, but not without end."""
    file = tmp_path / "deep.json"
    file.write_text('{"a":' * 100 + "1" + "}" * 100)
    assert ForeignFile(str(file)).data
    file.write_text('{"a":' * 200 + "1" + "}" * 200)
    with pytest.raises(ConfigError, match="too deeply"):
        ForeignFile(str(file))


@pytest.mark.parametrize("text", ["", "- a\n", "a: !!python/object:os.x {}\n"])
def test_another_root_and_tags_are_refused(tmp_path: Path, text: str) -> None:
    """The file is one mapping of plain values."""
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        ForeignFile(str(file))
