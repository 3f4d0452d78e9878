"""edge. `routes.yaml` and the environment → a checked configuration.

Every problem is told at once, each with file, line, column, path and a remedy. Line
and column of every value are kept, so that later checks can say where, too.

What is read is YAML 1.2's core: only `true` and `false` are booleans, `22:30` and
`yes` are text. Tags aren't read, so that nothing in a file can make Python objects.
In values, `${NAME}` and `${NAME:-default}` come from the environment; `$${` is a
plain `${`.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Final, NoReturn

import yaml

from gateway import config, routes
from gateway.config import Config, Finding, InvalidConfig, Loc
from gateway.routes import RouteTable

_MAX_FILE_BYTES: Final = 16 * 1024**2
"""10,000 routes with all their keys are a quarter of it."""
_MAX_DEPTH: Final = 32
"""Lists and mappings within each other; the schema needs eight."""
_MAX_ALIASED: Final = 100_000
"""Values that `*aliases` stand for: a few lines could mean billions of them."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's is ten times faster; wheels have it, other builds may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, or doubtful, and where. Never repeats a value."""

    file: str
    line: int
    column: int
    path: str
    """As in `routes[2].match.path`; empty for the whole file."""
    message: str
    hint: str = ""
    see: str = ""
    """The other place, when two contradict each other."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}:"
        path = f" {self.path}:" if self.path else ""
        see = f" (see {self.see})" if self.see else ""
        hint = f". {self.hint}" if self.hint else ""
        return f"{place}{path} {self.message}{see}{hint}"


class ConfigError(Exception):
    """The file can't be used; *problems* are all the reasons, in the file's order.

    Not a `GatewayError`: no request is being answered when this is found.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda at: (at.line, at.column)))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A configuration that can be served, and where in its file everything stands."""

    config: Config
    table: RouteTable = field(repr=False)
    path: str
    _source: _Source = field(repr=False)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What can be served but is probably not what was meant. Found at each call."""
        return self.problems(routes.warnings(self.config, self.table))

    def problems(self, findings: Iterable[Finding]) -> tuple[Problem, ...]:
        """Return *findings*, whoever made them, with their places in the file."""
        return tuple(self._source.problems(findings))

    def line(self, loc: Loc) -> int:
        """Return the line of what stands at *loc*, or of what is nearest around it."""
        return self._source.find(loc).line


def load(path: str | PathLike[str], environ: Mapping[str, str]) -> Settings:
    """Return the configuration in the file at *path*.

    Raises:
        ConfigError: the file can't be read, isn't YAML, isn't a configuration, or
            holds a route that can't be served (see `routes.compile`).
    """
    source = _Source(file=fspath(path))
    source.read(environ)
    try:
        checked = config.parse(source.root.data)
        table = routes.compile(checked)
    except InvalidConfig as exc:
        raise ConfigError((*source.found, *source.problems(exc.findings))) from None
    if source.found:
        raise ConfigError(source.found)
    return Settings(
        config=checked,
        table=table,
        path=source.file,
        _source=source,
    )


# --- the tree of values -----------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Node:
    """A value as Python sees it, and where it stands (counted from one)."""

    line: int
    column: int
    data: object = None
    children: dict[str | int, _Node] = field(default_factory=dict)
    keys: dict[str | int, tuple[int, int]] = field(default_factory=dict)
    """Where the keys of a mapping stand."""
    size: int = 1
    """How many values it is, with all that is within it."""
    spoiled: bool = False
    """A problem was told already; what the schema says of it would be noise."""


class _Spoiled:
    """Stands for a value that isn't known; no field of the schema takes it."""


class _Source:
    """The file's text on its way to a tree of nodes; collects problems."""

    def __init__(self, *, file: str) -> None:
        self.file = file
        self.root = _Node(line=1, column=1)
        self.found: list[Problem] = []

    def read(self, environ: Mapping[str, str]) -> None:
        """Fill `root`; problems that can be passed over go to `found`.

        Raises:
            ConfigError: nothing sensible can be made of the file.
        """
        text = self._text()
        try:
            self.root = _Composer(self, text, environ).compose()
        except yaml.YAMLError as exc:
            self.stop(*_yaml_problem(exc, text))

    def problems(self, findings: Iterable[Finding]) -> Iterator[Problem]:
        for finding in findings:
            node = self.find(finding.loc)
            if node.spoiled:
                continue
            line, column = node.line, node.column
            if finding.at_key:
                parent = self.find(finding.loc[:-1])
                line, column = parent.keys.get(finding.loc[-1], (line, column))
            see = ""
            if finding.see is not None:
                see = f"{config.path(finding.see)}, line {self.find(finding.see).line}"
            yield Problem(
                file=self.file,
                line=line,
                column=column,
                path=finding.path,
                message=finding.message,
                hint=finding.hint,
                see=see,
            )

    def find(self, loc: Loc) -> _Node:
        """Return what stands at *loc*, or what is nearest around it."""
        node = self.root
        for step in loc:
            child = node.children.get(step)
            if child is None:
                break
            node = child
        return node

    def add(
        self, line: int, column: int, message: str, hint: str = "", loc: Loc = ()
    ) -> None:
        """Remember a problem; reading goes on."""
        self.found.append(
            Problem(
                file=self.file,
                line=line,
                column=column,
                path=config.path(loc),
                message=message,
                hint=hint,
            )
        )

    def stop(
        self, line: int, column: int, message: str, hint: str = "", loc: Loc = ()
    ) -> NoReturn:
        """Remember a problem that nothing can be read after."""
        self.add(line, column, message, hint, loc)
        raise ConfigError(self.found) from None

    def _text(self) -> str:
        try:
            with Path(self.file).open("rb") as stream:
                raw = stream.read(_MAX_FILE_BYTES + 1)
        except OSError as exc:
            self.stop(1, 1, f"can't be read: {exc.strerror}")
        if len(raw) > _MAX_FILE_BYTES:
            self.stop(1, 1, f"is larger than {_MAX_FILE_BYTES // 1024**2} MiB")
        raw = raw.removeprefix(BOM_UTF8)
        try:
            text = raw.decode()
        except UnicodeDecodeError as exc:
            before = raw[: exc.start].decode()
            self.stop(
                *_line_and_column(before, len(before)),
                "this byte isn't UTF-8",
                "Save the file with the encoding UTF-8",
            )
        odd = _UNPRINTABLE.search(text)
        if odd:
            self.stop(
                *_line_and_column(text, odd.start()),
                f"the character U+{ord(odd[0]):04X} can't stand in YAML",
                "Remove it",
            )
        return text


_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
"""Source: YAML 1.2.2 §5.1."""


def _line_and_column(text: str, index: int) -> tuple[int, int]:
    begin = text.rfind("\n", 0, index) + 1
    return text.count("\n", 0, index) + 1, index - begin + 1


def _yaml_problem(error: yaml.YAMLError, text: str) -> tuple[int, int, str, str]:
    """Return line, column, message and remedy of what the YAML parser says.

    Its own text isn't used whole: it shows the line, which may hold a secret.
    """
    assert isinstance(error, yaml.MarkedYAMLError), "characters were checked before"
    mark = error.problem_mark
    said = str(error.problem)
    if "end of stream" in said and error.context_mark is not None:
        mark = error.context_mark  # where the quote opens, not where the file ends
    assert mark is not None
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: mark.column + 1]:
        message, hint = "a tab can't indent in YAML", "Use spaces"
    elif "${" in line and ("{" in line.replace("${", "") or "[" in line):
        message = "this isn't YAML"
        hint = 'Within { } and [ ], a variable stands in quotes: "${NAME}"'
    elif "mapping values" in said:
        message = "a key can't begin here"
        hint = "Check the indentation, and put text with a colon in quotes"
    elif "end of stream" in said:
        message, hint = "this isn't closed before the file ends", ""
    else:
        message = f"this isn't YAML: {said}"
        hint = "Check the indentation, the brackets and the quotes up to here"
    return mark.line + 1, mark.column + 1, message, hint


class _Composer:
    """Events of the YAML parser → nodes.

    Written on events, because PyYAML's own composer takes duplicate keys in silence,
    and recurses as deep as the file says.
    """

    def __init__(self, source: _Source, text: str, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, _Node | None] = {}
        """None while what the anchor names isn't complete."""
        self._aliased = 0

    def compose(self) -> _Node:
        """Return the one document of the stream; it is a mapping."""
        next(self._events)  # the stream's start
        event = next(self._events)
        if not isinstance(event, yaml.DocumentStartEvent):
            self._source.stop(1, 1, "the file is empty", "Begin with version: 1")
        root = self._node(next(self._events), ())
        if not isinstance(root.data, dict):
            self._source.stop(
                root.line,
                root.column,
                "expected keys at the top level",
                "Begin with version: 1",
            )
        next(self._events)  # the document's end
        event = next(self._events)
        if isinstance(event, yaml.DocumentStartEvent):
            self._source.stop(
                *_place(event), "a second document begins here", "Use one file for each"
            )
        return root

    def _node(self, event: yaml.Event, loc: Loc) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, loc)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        line, column = _place(event)
        node = _Node(line=line, column=column)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if event.tag is not None:
            node.spoiled = True
            self._source.add(
                line, column, "tags aren't read", "Remove what begins with !", loc
            )
        if len(loc) > _MAX_DEPTH:
            self._source.stop(line, column, "too many levels within each other")
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(node, event, loc)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._sequence(node, loc)
        else:
            self._mapping(node, loc)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, loc: Loc) -> _Node:
        line, column = _place(event)
        assert event.anchor is not None
        node = self._anchors.get(event.anchor)
        if node is None:
            why = (
                "this refers to what it is part of"
                if event.anchor in self._anchors
                else "nothing above has this anchor"
            )
            self._source.stop(line, column, why, loc=loc)
        self._aliased += node.size
        if self._aliased > _MAX_ALIASED:
            self._source.stop(
                line, column, f"aliases stand for more than {_MAX_ALIASED} values"
            )
        # Its own place and not the anchor's: that is where a person looks.
        return _Node(
            line=line,
            column=column,
            data=node.data,
            children=node.children,
            keys=node.keys,
            size=node.size,
            spoiled=node.spoiled,
        )

    def _sequence(self, node: _Node, loc: Loc) -> None:
        items: list[object] = []
        for index, event in enumerate(self._until(yaml.SequenceEndEvent)):
            child = self._node(event, (*loc, index))
            node.children[index] = child
            node.size += child.size
            items.append(child.data)
        node.data = items

    def _mapping(self, node: _Node, loc: Loc) -> None:
        entries: dict[str, object] = {}
        for event in self._until(yaml.MappingEndEvent):
            line, column = _place(event)
            if not isinstance(event, yaml.ScalarEvent):
                self._source.stop(line, column, "a key is plain text", loc=loc)
            key: str = event.value
            child = self._node(next(self._events), (*loc, key))
            if key in node.keys:
                self._source.add(
                    line,
                    column,
                    f"the key '{key}' stands on line {node.keys[key][0]} already",
                    "Keep one of the two",
                    (*loc, key),
                )
                continue
            node.keys[key] = line, column
            node.children[key] = child
            node.size += child.size
            entries[key] = child.data
        node.data = entries

    def _until(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield event

    def _scalar(self, node: _Node, event: yaml.ScalarEvent, loc: Loc) -> None:
        text: str = event.value
        if node.spoiled:
            node.data = _Spoiled()
        elif "${" not in text:
            node.data = _resolved(text) if event.implicit[0] else text
        else:
            node.data = self._expanded(text, node, loc)

    def _expanded(self, text: str, node: _Node, loc: Loc) -> object:
        """Return *text* with its variables replaced.

        `${PORT}` alone is read as if its value stood there: a number, or nothing.
        """
        whole = _VARIABLE.fullmatch(text)
        expanded = _VARIABLE.sub(lambda found: self._value(found, node, loc), text)
        if node.spoiled:
            return _Spoiled()
        if whole is not None and whole["name"] is not None:
            return _resolved(expanded)
        return expanded

    def _value(self, found: re.Match[str], node: _Node, loc: Loc) -> str:
        """Return what stands for one `${…}`."""
        if found["plain"]:
            return "${"
        name, default = found["name"], found["default"]
        if name is None:
            message = "this ${ begins no variable"
            hint = "Write ${NAME} or ${NAME:-default}, and $${ for a plain ${"
        else:
            value = self._environ.get(name)
            if value or (value is not None and default is None):
                return value
            if default is not None:
                return default
            message = f"the environment has no variable {name}"
            hint = f"Set it, or write ${{{name}:-default}}"
        if not node.spoiled:
            node.spoiled = True
            self._source.add(node.line, node.column, message, hint, loc)
        return ""


_VARIABLE = re.compile(
    r"(?P<plain>\$\$\{)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|\$\{"
)
_WORDS: Final[Mapping[str, object]] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,15})\.[0-9]{1,16}")


def _resolved(text: str) -> object:
    """Return the value of a plain scalar.

    Only what is written back the same is a number, so that text which looks like one
    (`1.10`, `007`) loses nothing; fields that want a number read it from text.

    Source: YAML 1.2.2 §10.3 (core schema).
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and repr(float(text)) == text:
        return float(text)
    return text


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1
