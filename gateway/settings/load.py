"""edge. The way from a file to a checked and compiled configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath

from gateway import config, routes
from gateway.config import Config, Finding, InvalidConfig, Loc
from gateway.routes import RouteTable
from gateway.settings.joining import read_all
from gateway.settings.problems import ConfigError, Problem
from gateway.settings.source import YamlSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A valid configuration, and the places of its values in the file."""

    config: Config
    table: RouteTable = field(repr=False)
    path: str
    """The file, or the files as they were given, with blanks between."""
    _source: YamlSource = field(repr=False)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Valid settings that are probably mistakes. Computed at each access."""
        return self.problems(routes.warnings(self.config, self.table))

    def problems(self, findings: Iterable[Finding]) -> tuple[Problem, ...]:
        """Return *findings* with their places in the file."""
        return tuple(self._source.problems(findings))

    def line(self, loc: Loc) -> int:
        """Return the line of the value at *loc*, or of the nearest one around it."""
        return self._source.find(loc).line

    def is_written(self, loc: Loc) -> bool:
        """Return whether the file itself has the value at *loc*: no variable does."""
        return self._source.has(loc) and not self._source.find(loc).is_expanded


FilePath = str | PathLike[str]
Checks = Callable[[Config], Iterable[Finding]]
"""Returns what is wrong with a configuration."""


def no_checks(_config: Config) -> Iterable[Finding]:
    """Return nothing: no further checks."""
    return ()


def load(
    files: FilePath | Sequence[FilePath],
    environ: Mapping[str, str],
    also: Checks = no_checks,
) -> Settings:
    """Return the configuration in *files*, each of which overrides those before it.

    `-` is standard input. *also* are further checks of the whole configuration.

    Raises:
        ConfigError: a file can't be read, isn't YAML, isn't a configuration, or
            has a route that can't be served (see `routes.compile`).
    """
    given = [files] if isinstance(files, str | PathLike) else files
    names = [fspath(file) for file in given]
    source = read_all(names, environ)
    data = source.root.data
    findings: list[Finding] = []
    try:
        checked = config.parse(data)
        table = routes.compile(checked)
        findings += also(checked)
        if not findings and not source.found:
            return Settings(
                config=checked, table=table, path=" ".join(names), _source=source
            )
    except InvalidConfig as exc:
        findings += exc.findings
    findings += _further(data, findings, also)
    raise ConfigError((*source.found, *source.problems(findings)))


def _further(
    data: object, findings: Sequence[Finding], also: Checks
) -> Iterator[Finding]:
    """Yield the mistakes that show only when those of *findings* are mended."""
    found = config.rest_of(data, findings)
    if found is None:
        return
    rest, missing = found
    known = {(one.loc, one.message) for one in findings}
    more = [*also(rest)]
    try:
        routes.compile(rest)
    except InvalidConfig as exc:
        more += exc.findings
    for finding in (*missing.found, *missing.of(more)):
        if (finding.loc, finding.message) not in known:
            yield finding
