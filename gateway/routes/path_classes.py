"""PURE. One path for each set of paths that a route table can't tell apart.

Properties of a whole table are decided on these paths. The walk descends all trees of a
host at once, with the automata of its regexes: a step is a literal segment of one of
them, or any other segment, of which there is one for each state that the regexes can
reach. Two paths with the same nodes and states match the same places, so one of them
stands for both.

A path that a service reads more loosely has several forms. The walk follows them side
by side, and assumes that any segment that isn't a literal may be read as any other. So
no place that may decide is left out, but one that can't may be included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Final

from gateway.errors import BadTarget
from gateway.http.path_pattern import Pattern
from gateway.http.target import Slashes, canonical_path
from gateway.routes.folding import Reading, fold_segment, folded
from gateway.routes.slashes import readings
from gateway.routes.table import Forms, RouteTable
from gateway.routes.tree import PathNode, Place, Tree

MOST_STEPS: Final = 200_000
"""A walk takes some 10 µs for each."""
_MOST_SPELLINGS: Final = 8


class TooManyPaths(Exception):
    """The table has more classes of paths than are looked at."""


@dataclass(frozen=True, slots=True)
class PathClass:
    """A host and a path that stand for all that match the same places."""

    host: str
    """Empty: any that no route names."""
    forms: Forms
    """The path as it is sent, then as it is read."""

    @property
    def path(self) -> str:
        """The path as it is sent."""
        return self.forms[0][0]


def path_classes(
    table: RouteTable,
    below: Iterable[str] = (),
    exactly: Iterable[str] = (),
    most: int = MOST_STEPS,
) -> Iterator[PathClass]:
    """Yield the classes of *table*, for each of its hosts.

    The paths of a class are all below the same ones of *below*, and each of *exactly*
    is a class of its own.

    Raises:
        TooManyPaths: the walk takes more than *most* steps.
    """
    walk = _Walk(table, tuple(below), tuple(exactly), most)
    for host in _hosts(table):
        for forms in walk.forms(host):
            yield PathClass(host, forms)


def _hosts(table: RouteTable) -> list[str]:
    """Return one host for each set of names that a request's host can match."""
    names = dict.fromkeys(
        name for _, forest in table.forests() for name in forest.names()
    )
    hosts = [""]
    for name in names:
        if not name.startswith("."):
            hosts.append(name)
            continue
        number, host = 0, f"x{name}"
        while host in names or f".{host}" in names:
            number += 1
            host = f"x{number}{name}"
        hosts.append(host)
    return hosts


@dataclass(frozen=True, slots=True)
class _At:
    """Where one form of a path is, after some of its segments."""

    text: str
    nodes: tuple[PathNode[Any], ...]
    prefixes: frozenset[int]
    """The identities of the places of the prefixes passed."""
    regexes: tuple[tuple[Pattern, Any], ...]
    """Those that may still match, with their states."""

    @property
    def key(self) -> tuple[object, ...]:
        """What decides about all that may follow."""
        states = tuple((pattern, state.places) for pattern, state in self.regexes)
        return tuple(map(id, self.nodes)), self.prefixes, states

    def step(self, segment: str) -> _At:
        """Return where it is after one more segment."""
        text = f"{self.text}/{segment}"
        nodes = []
        for node in self.nodes:
            if segment in node.literal:
                nodes.append(node.literal[segment])
            if node.named is not None and segment:
                nodes.append(node.named)
        states = ((one, _run(state, f"/{segment}")) for one, state in self.regexes)
        regexes = {one: state for one, state in states if state.places}
        for node in nodes:
            for one, _ in node.regexes:
                state = _run(one.start, text)
                if state.places:
                    regexes[one] = state
        passed = {id(node.prefix) for node in nodes if node.prefix is not None}
        return _At(text, tuple(nodes), self.prefixes | passed, tuple(regexes.items()))

    def literals(self) -> list[str]:
        """Return the literal segments that lead on, but for the empty one."""
        names = (name for node in self.nodes for name in node.literal if name)
        return [*dict.fromkeys(names)]


def _takes_all(tree: Tree[Place] | None) -> bool:
    root = None if tree is None else tree.root.prefix
    return root is not None and not root.is_conditional


def _run(state: Any, text: str) -> Any:
    for char in text:
        state = state[char]
    return state


class _Walk:
    """Walks the trees of a table."""

    def __init__(
        self,
        table: RouteTable,
        below: tuple[str, ...],
        exactly: tuple[str, ...],
        most: int,
    ) -> None:
        self._forests = table.forests()
        self._readings = [reading for reading, _ in self._forests[1:]]
        self._below, self._exactly = below, exactly
        self._left = most
        kept = readings(table.routes)
        self._slashes = Slashes(
            encoded=any(one.encoded for one in kept),
            repeated=any(one.repeated for one in kept),
        )
        self._atoms = _atoms(has_slashes=self._slashes.encoded)
        self._known: dict[tuple[object, ...], list[str]] = {}
        """Results of `_others`, as several forms of a path come to the same nodes."""

    def forms(self, host: str) -> Iterator[Forms]:
        """Yield the forms of each class of paths for *host*."""
        self._known.clear()  # its keys are identities of nodes made below
        levels = [[*forest.levels(host)] for _, forest in self._forests]
        # No other host's tree is looked at after one that has a place for every path.
        after = next((n for n, one in enumerate(levels[0], 1) if _takes_all(one)), None)
        start = tuple(
            self._start(
                [tree for tree in trees[:after] if tree is not None],
                is_sent=not number,
            )
            for number, trees in enumerate(levels)
        )
        seen = set()
        waiting = [start]
        for at in waiting:
            if at is not start:
                yield tuple((one.text,) for one in at)
            yield from self._ends(at)
            for following in self._steps(at):
                self._left -= 1
                if self._left < 0:
                    raise TooManyPaths
                key = tuple(one.key for one in following)
                if key not in seen:
                    seen.add(key)
                    waiting.append(following)

    def _start(self, trees: Sequence[Tree[Any]], *, is_sent: bool) -> _At:
        """Return the roots of *trees*, and of one with paths that aren't in them."""
        marks: Tree[object] = Tree()
        for path in (path for tree in trees for path in tree.exact):
            marks.place("template", path, object)
        if is_sent:
            for path in self._below:
                marks.place("prefix", path, object)
            for path in self._exactly:
                marks.place("template", path, object)
        nodes = tuple(tree.root for tree in (*trees, marks))
        prefixes = frozenset(
            id(node.prefix) for node in nodes if node.prefix is not None
        )
        regexes = {one: one.start for node in nodes for one, _ in node.regexes}
        return _At("", nodes, prefixes, tuple(regexes.items()))

    def _ends(self, at: tuple[_At, ...]) -> Iterator[Forms]:
        """Yield the forms of paths that end here in a way of their own."""
        sent, *read = at
        # A final slash, which some readings drop.
        yield (
            (f"{sent.text}/",),
            *(
                (one.text or "/",) if reading.final_slash else (f"{one.text}/",)
                for one, reading in zip(read, self._readings, strict=True)
            ),
        )
        if any(one.final_dots for one in self._readings):
            # A last segment of spaces, which some readings drop.
            for other in self._others(sent):
                text = f"{sent.text}/{other}"
                yield ((text,), *((one.text or "/",) for one in read))

    def _steps(self, at: tuple[_At, ...]) -> Iterator[tuple[_At, ...]]:
        """Yield where the forms may be after one more segment."""
        sent, *read = at
        for literal in sent.literals():
            ways = (_read_as(literal, reading) for reading in self._readings)
            for segments in product(*ways):
                yield self._stepped(at, (literal, *segments))
        others = self._others(sent)
        if not read:
            for other in others:
                yield (sent.step(other),)
        else:
            ways_of_all = [(*one.literals(), *self._others(one)) for one in read]
            for segments in product(*ways_of_all):
                for other in self._spelled(sent, others, segments):
                    yield self._stepped(at, (other, *segments))
        if self._slashes.repeated and sent.text:
            yield self._stepped(at, ("",) * len(at))

    @staticmethod
    def _stepped(at: tuple[_At, ...], segments: tuple[str, ...]) -> tuple[_At, ...]:
        return tuple(
            one.step(segment) for one, segment in zip(at, segments, strict=True)
        )

    def _spelled(
        self, sent: _At, others: Sequence[str], read: tuple[str, ...]
    ) -> Sequence[str]:
        """Return *others*, or one that is read as *read* if it stands for them."""
        if sent.regexes:
            return others
        known = sent.literals()
        text, reading = read[0], self._readings[0]
        for one in (text.upper(), f"{text};x", f"{text}."):
            if one not in known and fold_segment(one, reading) == text:
                return (one,)
        return others

    def _others(self, at: _At) -> list[str]:
        """Return segments that aren't literal: one for each effect on the regexes."""
        known = {*at.literals(), ".", ".."}
        if not at.regexes:
            number = 0
            while (name := f"x{number or ''}") in known:
                number += 1
            return [name]
        key = at.key
        if key not in self._known:
            self._known[key] = [*self._reached(at, known).values()]
        return self._known[key]

    def _reached(self, at: _At, known: set[str]) -> dict[tuple[int, ...], str]:
        """Return the states that other segments lead to, and one segment for each."""
        beginnings = {name[:end] for name in known for end in range(len(name) + 1)}
        first = tuple(state["/"] for _, state in at.regexes)
        found: dict[tuple[int, ...], str] = {}
        seen: set[tuple[object, ...]] = set()
        waiting = [(first, "")]
        for states, text in waiting:
            for atom in self._atoms:
                if text in ("", ".", "..") and atom in (";", "%3B"):
                    continue  # `target.parse` refuses it
                self._left -= 1
                if self._left < 0:
                    raise TooManyPaths
                following = tuple(_run(state, atom) for state in states)
                places = tuple(state.places for state in following)
                longer = text + atom
                if longer not in known:
                    found.setdefault(places, longer)
                    if not any(places):
                        continue
                key = places, longer if longer in beginnings else None
                if key not in seen:
                    seen.add(key)
                    waiting.append((following, longer))
        return found


def _read_as(segment: str, reading: Reading) -> list[str]:
    """Return what a literal segment may be read as, also if it is the last one."""
    forms = (form.rpartition("/")[2] for form in folded(f"/{segment}", reading))
    ways = (fold_segment(segment, reading), *forms)
    return [*dict.fromkeys(one for one in ways if one)]


@cache
def _atoms(*, has_slashes: bool) -> tuple[str, ...]:
    """Return the characters and escapes of canonical segments, the plainest first."""
    atoms = [chr(byte) for byte in range(0x21, 0x7F)]
    atoms += [f"%{byte:02X}" for byte in range(256)]
    known = [one for one in atoms if _is_canonical(one)]
    if has_slashes:
        known += ["%2F", "%2f"]
    return tuple(sorted(known, key=lambda one: (not one.isalnum(), one.isupper())))


def _is_canonical(atom: str) -> bool:
    if len(atom) == 3 and atom > "%7F":
        return True  # part of an escaped character
    try:
        return atom != "/" and canonical_path(f"/x{atom}x") == f"/x{atom}x"
    except BadTarget:
        return False
