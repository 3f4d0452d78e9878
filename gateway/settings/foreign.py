"""edge. A file of another format, in JSON or YAML, with the places of its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.config import Finding
from gateway.settings import yaml_reader
from gateway.settings.problems import ConfigError, Problem
from gateway.settings.source import YamlSource


class ForeignFile:
    """A file that isn't the gateway's own. Nothing in it is expanded."""

    def __init__(self, file: str) -> None:
        """*file* is its path, or `-` for standard input.

        Raises:
            ConfigError: it can't be read, isn't JSON or YAML, or isn't one mapping.
        """
        self._source = YamlSource(file=file)
        yaml_reader.read_foreign(self._source)
        if self._source.found:
            raise ConfigError(self._source.found)
        data = self._source.root.data
        assert isinstance(data, dict), "the reader refuses another root"
        self.data: Mapping[str, Any] = data

    def line(self, loc: tuple[str | int, ...]) -> int:
        """Return the line of the value at *loc*, or of the nearest one around it."""
        return self._source.find(loc).line

    def problems(self, findings: tuple[Finding, ...]) -> tuple[Problem, ...]:
        """Return *findings* with their places in the file."""
        return tuple(self._source.problems(findings))
