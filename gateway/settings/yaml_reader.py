"""edge. YAML text → a tree of nodes, each with its line and column.

Scalars are read by the core schema of YAML 1.2: see `scalars`. Tags are refused, so
that a file can't create Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import yaml

from gateway.config import Loc
from gateway.settings.environment import BadVariable, expand
from gateway.settings.scalars import resolve
from gateway.settings.secret_files import read_secret
from gateway.settings.source import InvalidValue, Node, YamlSource

_MAX_DEPTH: Final = 32
"""Nested lists and mappings; the schema needs eight levels."""
_MAX_FOREIGN_DEPTH: Final = 128
_MAX_ALIASED: Final = 100_000
"""Values repeated by `*aliases`: without a limit, a few lines could make billions."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader is ten times faster; builds other than wheels may lack it."""


_NO_VERSION: Final = "Begin with version: 1"


def read(source: YamlSource, environ: Mapping[str, str]) -> None:
    """Set the root of *source*; problems that don't end reading go to `source.found`.

    Raises:
        ConfigError: the file can't be read, isn't YAML, or isn't one mapping.
    """
    text = source.text()
    try:
        source.root = _Composer(source, text, environ).compose()
    except yaml.YAMLError as exc:
        source.stop(*_yaml_problem(exc, text))


def read_foreign(source: YamlSource) -> None:
    """Set the root of *source*, a file of another format in JSON or YAML.

    Nothing in it is expanded, and it may be nested more deeply than a configuration.

    Raises:
        ConfigError: the file can't be read, isn't YAML, or isn't one mapping.
    """
    text = source.text()
    composer = _Composer(source, text, None, max_depth=_MAX_FOREIGN_DEPTH, hint="")
    try:
        source.root = composer.compose()
    except yaml.YAMLError as exc:
        source.stop(*_yaml_problem(exc, text))


class _Composer:
    """Builds nodes from the events of the YAML parser.

    PyYAML's own composer accepts duplicate keys, and recurses without a limit.
    """

    def __init__(
        self,
        source: YamlSource,
        text: str,
        environ: Mapping[str, str] | None,
        *,
        max_depth: int = _MAX_DEPTH,
        hint: str = _NO_VERSION,
    ) -> None:
        """*environ* None: no value is expanded. *hint* is that of an empty file."""
        self._source = source
        self._max_depth = max_depth
        self._hint = hint
        self._environ = environ
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, Node | None] = {}
        """None while the anchor's value isn't complete."""
        self._aliased = 0

    def compose(self) -> Node:
        """Return the node of the file's only document, a mapping.

        Raises:
            ConfigError: the file is empty, has a second document or another value.
            YAMLError: the text isn't YAML.
        """
        next(self._events)  # the stream's start
        event = next(self._events)
        if not isinstance(event, yaml.DocumentStartEvent):
            self._source.stop(1, 1, "the file is empty", self._hint)
        root = self._node(next(self._events), ())
        if not isinstance(root.data, dict):
            self._source.stop(
                root.line,
                root.column,
                "expected keys at the top level",
                self._hint,
            )
        next(self._events)  # the document's end
        event = next(self._events)
        if isinstance(event, yaml.DocumentStartEvent):
            self._source.stop(
                *_place(event),
                "a second document begins here",
                "Put each document in its own file",
            )
        return root

    def _node(self, event: yaml.Event, loc: Loc) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, loc)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        line, column = _place(event)
        node = Node(line=line, column=column, file=self._source.file)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if event.tag is not None:
            node.spoiled = True
            self._source.add(
                line, column, "tags aren't supported", "Remove the tag (!…)", loc
            )
        if len(loc) > self._max_depth:
            self._source.stop(line, column, "lists and mappings are nested too deeply")
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(node, event, loc)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._sequence(node, loc)
        else:
            self._mapping(node, loc)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, loc: Loc) -> Node:
        line, column = _place(event)
        assert event.anchor is not None
        node = self._anchors.get(event.anchor)
        if node is None:
            why = (
                "this alias refers to a value that contains it"
                if event.anchor in self._anchors
                else "no value above has this anchor"
            )
            self._source.stop(line, column, why, loc=loc)
        self._aliased += node.size
        if self._aliased > _MAX_ALIASED:
            self._source.stop(
                line, column, f"aliases repeat more than {_MAX_ALIASED} values"
            )
        # The place is the alias's, not the anchor's: people look there first.
        return Node(
            line=line,
            column=column,
            file=node.file,
            data=node.data,
            children=node.children,
            keys=node.keys,
            size=node.size,
            is_expanded=node.is_expanded,
            spoiled=node.spoiled,
        )

    def _sequence(self, node: Node, loc: Loc) -> None:
        items: list[object] = []
        for index, event in enumerate(self._until(yaml.SequenceEndEvent)):
            child = self._node(event, (*loc, index))
            node.children[index] = child
            node.size += child.size
            items.append(child.data)
        node.data = items

    def _mapping(self, node: Node, loc: Loc) -> None:
        entries: dict[str, object] = {}
        for event in self._until(yaml.MappingEndEvent):
            line, column = _place(event)
            if not isinstance(event, yaml.ScalarEvent):
                self._source.stop(line, column, "a key must be plain text", loc=loc)
            key: str = event.value
            child = self._node(next(self._events), (*loc, key))
            if key in node.keys:
                self._source.add(
                    line,
                    column,
                    f"the key '{key}' is on line {node.keys[key][0]} already",
                    "Remove one of the two",
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

    def _scalar(self, node: Node, event: yaml.ScalarEvent, loc: Loc) -> None:
        text: str = event.value
        if node.spoiled:
            node.data = InvalidValue()
        elif self._environ is None or "${" not in text:
            node.data = resolve(text) if event.implicit[0] else text
        else:
            node.is_expanded = True
            node.data = self._expanded(text, self._environ, node, loc)

    def _expanded(
        self, text: str, environ: Mapping[str, str], node: Node, loc: Loc
    ) -> object:
        try:
            return expand(text, environ, read_secret)
        except BadVariable as wrong:
            node.spoiled = True
            self._source.add(node.line, node.column, wrong.message, wrong.hint, loc)
            return InvalidValue()


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1


def _yaml_problem(error: yaml.YAMLError, text: str) -> tuple[int, int, str, str]:
    """Return line, column, message and remedy for an error of the YAML parser.

    The parser's own text isn't used whole: it quotes the line, which may have a secret.
    """
    assert isinstance(error, yaml.MarkedYAMLError), "characters were checked before"
    mark = error.problem_mark
    reason = str(error.problem)
    if "end of stream" in reason and error.context_mark is not None:
        mark = error.context_mark  # the opening quote, not the file's end
    assert mark is not None
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: mark.column + 1]:
        message, hint = "tabs can't indent in YAML", "Use spaces"
    elif "${" in line and ("{" in line.replace("${", "") or "[" in line):
        message = "this isn't YAML"
        hint = 'Within { } and [ ], write a variable in quotes: "${NAME}"'
    elif "mapping values" in reason:
        message = "a key can't begin here"
        hint = "Check the indentation, and put text with a colon in quotes"
    elif "end of stream" in reason:
        message, hint = "this isn't closed before the file ends", "Close it"
    else:
        message = f"this isn't YAML: {reason}"
        hint = "Check the indentation, the brackets and the quotes up to here"
    return mark.line + 1, mark.column + 1, message, hint
