"""edge. YAML text → a tree of nodes, each with its line and column.

The text is read as YAML 1.2's core: see `scalars`. Tags are refused, so that nothing in
a file can make Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import yaml

from gateway.config import Loc
from gateway.settings.environment import BadVariable, expand
from gateway.settings.scalars import resolve
from gateway.settings.source import Node, Spoiled, YamlSource

_MAX_DEPTH: Final = 32
"""Levels of lists and mappings; the schema needs eight."""
_MAX_ALIASED: Final = 100_000
"""Values that `*aliases` repeat: without a limit, a few lines could mean billions."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader is ten times faster; wheels have it, other builds may not."""


def read(source: YamlSource, environ: Mapping[str, str]) -> None:
    """Set the root of *source*; problems that end nothing go to `source.found`.

    Raises:
        ConfigError: the file can't be read, isn't YAML, or isn't one mapping.
    """
    text = source.text()
    try:
        source.root = _Composer(source, text, environ).compose()
    except yaml.YAMLError as exc:
        source.stop(*_yaml_problem(exc, text))


class _Composer:
    """Makes nodes of the YAML parser's events.

    PyYAML's own composer accepts duplicate keys, and recurses without a limit.
    """

    def __init__(
        self, source: YamlSource, text: str, environ: Mapping[str, str]
    ) -> None:
        self._source = source
        self._environ = environ
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, Node | None] = {}
        """None while the anchor's value isn't complete."""
        self._aliased = 0

    def compose(self) -> Node:
        """Return the only document of the file, which is a mapping."""
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

    def _node(self, event: yaml.Event, loc: Loc) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, loc)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        line, column = _place(event)
        node = Node(line=line, column=column)
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

    def _alias(self, event: yaml.AliasEvent, loc: Loc) -> Node:
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
        # The alias's place, not the anchor's: that is where people look first.
        return Node(
            line=line,
            column=column,
            data=node.data,
            children=node.children,
            keys=node.keys,
            size=node.size,
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

    def _scalar(self, node: Node, event: yaml.ScalarEvent, loc: Loc) -> None:
        text: str = event.value
        if node.spoiled:
            node.data = Spoiled()
        elif "${" not in text:
            node.data = resolve(text) if event.implicit[0] else text
        else:
            node.data = self._expanded(text, node, loc)

    def _expanded(self, text: str, node: Node, loc: Loc) -> object:
        try:
            return expand(text, self._environ)
        except BadVariable as wrong:
            node.spoiled = True
            self._source.add(node.line, node.column, wrong.message, wrong.hint, loc)
            return Spoiled()


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1


def _yaml_problem(error: yaml.YAMLError, text: str) -> tuple[int, int, str, str]:
    """Return line, column, message and remedy for an error of the YAML parser.

    The parser's own text isn't used whole: it shows the line, which may hold a secret.
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
