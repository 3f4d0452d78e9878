"""edge. A configuration file: its text, the places of its values and its problems."""

from __future__ import annotations

import re
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

from gateway import config
from gateway.config import Finding, Loc
from gateway.settings import files_read
from gateway.settings.problems import ConfigError, Problem

STDIN: Final = "-"
"""The path that stands for standard input."""
_MAX_FILE_BYTES: Final = 16 * 1024**2
"""Four times the size of a file with 10,000 routes that have every key."""


@dataclass(slots=True, kw_only=True)
class Node:
    """A value as a Python object, and its place in the file, counted from one."""

    line: int
    column: int
    file: str = ""
    data: object = None
    children: dict[str | int, Node] = field(default_factory=dict)
    keys: dict[str | int, tuple[int, int]] = field(default_factory=dict)
    """The places of a mapping's keys."""
    size: int = 1
    """Number of values in it, itself included."""
    is_expanded: bool = False
    """A variable or a file was in it, so its text isn't what the file has."""
    spoiled: bool = False
    """A problem with it is reported; the schema's findings about it are left out."""

    def put(self, key: str, child: Node, place: tuple[int, int]) -> None:
        """Set a key of a mapping; *place* is the key's own."""
        assert isinstance(self.data, dict), "a mapping"
        self.children[key] = child
        self.keys[key] = place
        self.data[key] = child.data

    def copy(self) -> Node:
        """Return a copy that may be changed: an alias shares what is in a node."""
        data = self.data.copy() if isinstance(self.data, dict | list) else self.data
        return replace(
            self, data=data, children=dict(self.children), keys=dict(self.keys)
        )

    def append(self, child: Node) -> None:
        """Add an item to a list."""
        assert isinstance(self.data, list), "a list"
        self.children[len(self.data)] = child
        self.data.append(child.data)


class InvalidValue:
    """Replaces a value that can't be read; no key of the schema accepts it."""


class YamlSource:
    """A file, the tree of its values, and the problems found in it.

    The tree may have values of other files, too (`settings.joining`).
    """

    def __init__(self, *, file: str) -> None:
        """*file* is its path, or `-` for standard input."""
        self.file = file
        self.root = Node(line=1, column=1, file=file)
        self.found: list[Problem] = []

    def problems(self, findings: Iterable[Finding]) -> Iterator[Problem]:
        """Yield *findings* with their places, except those about spoiled values."""
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
                other = self.find(finding.see)
                elsewhere = "" if other.file == node.file else f" of {other.file}"
                see = f"{config.path(finding.see)}, line {other.line}{elsewhere}"
            yield Problem(
                file=node.file or self.file,
                line=line,
                column=column,
                path=finding.path,
                message=finding.message,
                hint=finding.hint,
                see=see,
            )

    def find(self, loc: Loc) -> Node:
        """Return the node at *loc*, or the nearest one around it."""
        node = self.root
        for step in loc:
            child = node.children.get(step)
            if child is None:
                break
            node = child
        return node

    def has(self, loc: Loc) -> bool:
        """Return whether the file has a value at *loc*."""
        node: Node | None = self.root
        for step in loc:
            node = None if node is None else node.children.get(step)
        return node is not None

    def add(
        self, line: int, column: int, message: str, hint: str = "", loc: Loc = ()
    ) -> None:
        """Record a problem; reading continues."""
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
        """Record a problem and end reading.

        Raises:
            ConfigError: always.
        """
        self.add(line, column, message, hint, loc)
        raise ConfigError(self.found) from None

    def text(self) -> str:
        """Return the file's text.

        Raises:
            ConfigError: the file can't be read, is too large, or isn't printable UTF-8.
        """
        try:
            if self.file == STDIN:
                raw = _standard_input()
            else:
                with Path(self.file).open("rb") as stream:
                    raw = stream.read(_MAX_FILE_BYTES + 1)
                files_read.note(self.file, raw)
        except OSError as exc:
            files_read.note(self.file, None)
            self.stop(1, 1, f"the file can't be read: {exc.strerror}")
        if len(raw) > _MAX_FILE_BYTES:
            self.stop(1, 1, f"the file is larger than {_MAX_FILE_BYTES // 1024**2} MiB")
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
                f"the character U+{ord(odd[0]):04X} isn't allowed in YAML",
                "Remove it",
            )
        return text


@cache
def _standard_input() -> bytes:
    """Return what standard input has; a reload gets the same bytes again."""
    return sys.stdin.buffer.read(_MAX_FILE_BYTES + 1)


_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
"""Source: YAML 1.2.2 §5.1."""


def _line_and_column(text: str, index: int) -> tuple[int, int]:
    begin = text.rfind("\n", 0, index) + 1
    return text.count("\n", 0, index) + 1, index - begin + 1
