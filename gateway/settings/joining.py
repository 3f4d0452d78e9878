"""edge. Several files as one: `include`, and `-c` given more than once.

A file that another one includes adds services, groups and routes. Of two files given
with `-c`, the later one overrides the earlier: mappings are joined key by key, routes,
groups and includes are added, and every other value is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Final

from gateway.settings import files_read, yaml_reader
from gateway.settings.problems import ConfigError
from gateway.settings.source import STDIN, Node, YamlSource

_INCLUDED_KEYS: Final = ("services", "groups", "routes")
_ADDED_KEYS: Final = ("include", "groups", "routes")
_MAX_FILES: Final = 1000


def read_all(files: Sequence[str], environ: Mapping[str, str]) -> YamlSource:
    """Return *files* and all that they include as one source, named as the first.

    Raises:
        ConfigError: one of them can't be read, isn't YAML, or isn't one mapping.
    """
    first, *others = [_read(file, environ) for file in files]
    for other in others:
        _override(first, other)
    return first


def _read(file: str, environ: Mapping[str, str]) -> YamlSource:
    source = YamlSource(file=file)
    yaml_reader.read(source, environ)
    for path, node in _included(source):
        part = YamlSource(file=path)
        try:
            yaml_reader.read(part, environ)
        except ConfigError as error:
            source.found += error.problems
            node.spoiled = True
            continue
        _include(source, part)
    return source


def _included(source: YamlSource) -> list[tuple[str, Node]]:
    """Return the files that *source* includes, each with the value that names it."""
    patterns = source.root.children.get("include")
    if patterns is None or not isinstance(patterns.data, list):
        return []  # the schema refuses another value
    start = Path() if source.file == STDIN else Path(source.file).parent
    found: dict[str, Node] = {}
    for number, node in patterns.children.items():
        if not isinstance(node.data, str | int | float):
            continue
        pattern = str(start / str(node.data))
        names = sorted(glob(pattern)) if has_magic(pattern) else [pattern]  # noqa: PTH207 # Path.glob takes no absolute pattern
        if has_magic(pattern):
            files_read.note_pattern(pattern, names)
        for name in names:
            if name in found or name == source.file:
                source.add(
                    node.line,
                    node.column,
                    "this includes a file that is read already",
                    "Each file can be included once",
                    ("include", number),
                )
            else:
                found[name] = node
        if len(found) > _MAX_FILES:
            source.stop(node.line, node.column, f"more than {_MAX_FILES} files")
    return list(found.items())


def _include(source: YamlSource, part: YamlSource) -> None:
    """Add the services, groups and routes of *part* to those of *source*."""
    source.found += part.found
    for key, node in part.root.children.items():
        assert isinstance(key, str), "the root is a mapping"
        if key == "version" and node.data == 1:
            continue
        if key not in _INCLUDED_KEYS:
            line, column = part.root.keys[key]
            part.found.clear()
            part.add(
                line,
                column,
                "an included file has only services, groups and routes",
                "Move this to the file that includes it",
                (key,),
            )
            source.found += part.found
            continue
        place = part.root.keys[key]
        into = source.root.children.get(key)
        if into is None:
            source.root.put(key, node, place)
            continue
        into = into.copy()
        if isinstance(into.data, dict) and isinstance(node.data, dict):
            _add_names(source, into, node, key)
        else:
            _add_items(into, node)
        source.root.put(key, into, source.root.keys[key])


def _add_names(source: YamlSource, into: Node, node: Node, key: str) -> None:
    """Add the keys of *node* to *into*; one that is there already is a problem."""
    for name, child in node.children.items():
        assert isinstance(name, str), "a mapping's key"
        line, column = node.keys[name]
        if name in into.children:
            other = into.children[name]
            part = YamlSource(file=node.file)
            part.add(
                line,
                column,
                f"the key '{name}' is on line {other.line} of {other.file} already",
                "Remove one of the two",
                (key, name),
            )
            source.found += part.found
        else:
            into.put(name, child, (line, column))


def _add_items(into: Node, node: Node) -> None:
    """Add the items of a list to another one; a value that is no list spoils it."""
    if not isinstance(into.data, list) or not isinstance(node.data, list):
        if isinstance(into.data, list):  # the schema reports the other file's value
            into.append(node)
        return
    for child in node.children.values():
        into.append(child)


def _override(source: YamlSource, later: YamlSource) -> None:
    """Put the values of *later* over those of *source*."""
    source.found += later.found
    _join(source.root, later.root, at_root=True)


def _join(base: Node, later: Node, *, at_root: bool = False) -> None:
    for key, node in later.children.items():
        assert isinstance(key, str), "a mapping's key"
        into = base.children.get(key)
        adds = at_root and key in _ADDED_KEYS
        joins = isinstance(node.data, dict)
        if into is None or not (adds or (joins and isinstance(into.data, dict))):
            base.put(key, node, later.keys[key])
            continue
        into = into.copy()
        if adds:
            _add_items(into, node)
        else:
            _join(into, node)
        base.put(key, into, base.keys[key])
