"""PURE. Regular expressions over canonical paths, matched in time linear to the path.

Python's `re` backtracks: one long path and one careless pattern stop the whole event
loop. Here a pattern becomes an automaton that reads each character once.

The syntax: characters, `.`, classes `[a-z]` and `[^/]`, `\\d`, `\\w`, escaped
punctuation, groups, `|`, `*`, `+`, `?` and `{m,n}`. Everything else is refused when
the file is loaded, because a pattern with another meaning than its author intended is
a security hole. A pattern always matches the whole path.

Source: V. M. Glushkov, "The abstract theory of automata" (1961): one state for each
place in the pattern, no empty transitions; the sets of states are bit masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NoReturn

_ALPHABET: Final = frozenset(map(chr, range(0x21, 0x7F)))
"""The characters of a canonical path; no pattern matches others, not even `.`."""
_EXAMPLES: Final = sorted(
    _ALPHABET, key=lambda char: (not char.isalnum(), char.isupper(), char)
)
"""The alphabet, in the order in which an example prefers its characters."""
_CLASSES: Final = {
    "d": frozenset("0123456789"),
    "w": frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"),
}
_MAX_TEXT: Final = 512
"""The most characters of a pattern."""
_MAX_POSITIONS: Final = 512
"""The most places of a pattern after its counted repeats are written out."""
_MAX_DEPTH: Final = 20
"""The most levels of nested groups."""
_MAX_STATES: Final = 2000
"""Remembered sets of places. Clients choose the paths, so memory needs a bound."""


class BadPattern(ValueError):
    """The pattern has a syntax error, or is too large."""


class Pattern:
    """A compiled pattern. Compared by its text."""

    __slots__ = ("_automaton", "_lower", "literal_prefix", "text")

    def __init__(self, text: str, *, lower: bool = False) -> None:
        """
        *lower*: the small letter of each capital in the pattern matches, too.

        Raises:
            BadPattern: *text* has a mistake, is too large, or asks for what an
                automaton can't do (back references, looking around).
        """
        parser = _Parser(text)
        parser.parse()
        self.text = text
        self._lower = lower
        self.literal_prefix = parser.literal_prefix()
        """The plain characters that every match begins with; may be empty."""
        if lower:
            parser.chars = [
                chars | set(map(str.lower, chars)) for chars in parser.chars
            ]
        self._automaton = _Automaton(parser)

    @property
    def start(self) -> _NfaState:
        """The state before a path's first character. Each state has the next ones."""
        return self._automaton.start

    def matches(self, path: str) -> bool:
        """Return whether the whole of *path* matches, in time linear to its length."""
        state = self._automaton.start
        for char in path:
            state = state[char]
            if not state.places:
                return False
        return state.accepting

    def example(self) -> str | None:
        """Return one of the shortest matching paths; None if the search is too long."""
        paths = {self._automaton.start.places: ""}
        states = [self._automaton.start]
        for state in states:
            path = paths[state.places]
            if state.accepting:
                return path
            for char in _EXAMPLES:
                following = state[char]
                if following.places and following.places not in paths:
                    paths[following.places] = path + char
                    states.append(following)
            if len(states) > _MAX_STATES:
                break
        return None

    def begins_with(self, prefix: str) -> bool:
        """Return whether every match is *prefix*, or *prefix* followed by a slash."""
        if self.literal_prefix != prefix:
            return self.literal_prefix.startswith(f"{prefix}/")
        state = self._automaton.start
        for char in prefix:
            state = state[char]
        return not any(state[char].places for char in _ALPHABET - {"/"})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Pattern)
            and other.text == self.text
            and other._lower == self._lower
        )

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


class _NfaState(dict[str, "_NfaState"]):
    """A set of places, and the states that follow it, computed on first use."""

    __slots__ = ("_automaton", "accepting", "places")

    def __init__(self, automaton: _Automaton, places: int) -> None:
        super().__init__()
        self._automaton = automaton
        self.places = places
        self.accepting = bool(places & automaton.accepting)

    def __missing__(self, char: str) -> _NfaState:
        following = self._automaton.after(self.places, char)
        if char in _ALPHABET:  # others match nothing and aren't stored
            self[char] = following
        return following


class _Automaton:
    """The places of a pattern, which of them follow each, and the states used."""

    __slots__ = ("_follow", "_places_of", "_states", "accepting", "start")

    def __init__(self, parser: _Parser) -> None:
        # Place 0 is before the first character; the parser's place n is n + 1 here.
        whole = parser.whole
        self._follow = (whole.first << 1, *(mask << 1 for mask in parser.follow))
        self.accepting = whole.last << 1 | whole.empty
        self._places_of = dict.fromkeys(_ALPHABET, 0)
        for index, chars in enumerate(parser.chars, start=1):
            for char in chars:
                self._places_of[char] |= 1 << index
        self._states: dict[int, _NfaState] = {}
        self.start = _NfaState(self, 1)

    def after(self, places: int, char: str) -> _NfaState:
        """Return the state that *char* leads to."""
        reached = 0
        for place in _bits(places):
            reached |= self._follow[place]
        reached &= self._places_of.get(char, 0)
        state = self._states.get(reached)
        if state is None:
            if len(self._states) >= _MAX_STATES:
                self._states.clear()
                self.start.clear()
            state = self._states[reached] = _NfaState(self, reached)
        return state


class _Part:
    """A piece of the pattern: where it can begin and end, and whether it can be empty.

    *first* and *last* are bit masks of places.
    """

    __slots__ = ("empty", "first", "last")

    def __init__(self, *, empty: bool, first: int = 0, last: int = 0) -> None:
        self.empty = empty
        self.first = first
        self.last = last


class _Parser:
    """Reads a pattern from left to right and numbers its places."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.chars: list[frozenset[str]] = []
        """The characters that match at each place."""
        self.follow: list[int] = []
        """The places that may follow each place, as bit masks."""
        self.whole = _Part(empty=True)
        self._at = 0
        self._depth = 0

    def parse(self) -> None:
        """Read the whole pattern into `whole`, `chars` and `follow`.

        Raises:
            BadPattern: the pattern has a syntax error, or is too large.
        """
        if len(self.text) > _MAX_TEXT:
            raise BadPattern(f"a pattern has at most {_MAX_TEXT} characters")
        self.whole = self._alternatives()
        if self._at < len(self.text):  # only `)` ends the alternatives early
            self._refuse("')' closes no group")

    def literal_prefix(self) -> str:
        """Return the characters that every match begins with."""
        prefix = ""
        places = 0 if self.whole.empty else self.whole.first
        while places:
            chars, places, ends = self._step(places)
            if len(chars) != 1:
                break
            prefix += next(iter(chars))
            if ends:
                break
        return prefix

    def _step(self, places: int) -> tuple[frozenset[str], int, bool]:
        """Return the characters at *places*, the next places, and if one is an end."""
        chars: frozenset[str] = frozenset()
        following = 0
        for place in _bits(places):
            chars |= self.chars[place]
            following |= self.follow[place]
        return chars, following, bool(places & self.whole.last)

    # --- the grammar, widest first ---

    def _alternatives(self) -> _Part:
        part = self._sequence()
        while self._next_is("|"):
            self._at += 1
            other = self._sequence()
            part = _Part(
                empty=part.empty or other.empty,
                first=part.first | other.first,
                last=part.last | other.last,
            )
        return part

    def _sequence(self) -> _Part:
        part = _Part(empty=True)
        while self._at < len(self.text) and not self._next_is("|", ")"):
            part = self._then(part, self._repeated())
        return part

    def _repeated(self) -> _Part:
        begin = self._at
        part = self._atom()
        end = self._at
        least, most = self._count()
        if self._next_is("*", "+", "?", "{"):
            self._refuse("a repeat can't be repeated, and is neither lazy nor greedy")
        resume = self._at
        if most is None and least <= 1:
            self._loop(part)
            return _Part(
                empty=part.empty or not least, first=part.first, last=part.last
            )
        if (least, most) == (1, 1):
            return part
        # {m,n} is the atom written m to n times; the first time is `part`.
        whole = _Part(empty=True)
        times = least if most is None else most
        for number in range(times):
            if number:
                self._at = begin
                part = self._atom()
                assert self._at == end
            if number >= least:
                part.empty = True
            if most is None and number == times - 1:
                self._loop(part)
            whole = self._then(whole, part)
        self._at = resume
        return whole

    def _count(self) -> tuple[int, int | None]:
        """Read `*`, `+`, `?` or `{m,n}` and return the least and the greatest count."""
        if self._next_is("*", "+", "?"):
            sign = self.text[self._at]
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        if not self._next_is("{"):
            return 1, 1
        end = self.text.find("}", self._at)
        least, comma, most = self.text[self._at + 1 : max(end, 0)].partition(",")
        if not _is_count(least) or not (_is_count(most) or most == ""):
            self._refuse("expected {2}, {2,} or {2,5}; a plain brace is written \\{")
        self._at = end + 1
        low = int(least)
        high = low if not comma else int(most) if most else None
        if high == 0 or (high is not None and high < low):
            self._refuse("a count must not be zero, and not end below its beginning")
        return low, high

    def _atom(self) -> _Part:
        char = self.text[self._at]
        self._at += 1
        if char in "^$":
            self._refuse("the whole path is matched: leave out ^ and $")
        if char in ")]{}*+?|":
            self._refuse(f"a plain '{char}' is written '\\{char}'")
        match char:
            case "(":
                return self._group()
            case "[":
                return self._place(self._class())
            case ".":
                return self._place(_ALPHABET)
            case "\\":
                return self._place(self._escape())
            case _:
                return self._place(frozenset(self._plain(char)))

    def _group(self) -> _Part:
        if self._next_is("?"):
            if not self.text.startswith("?:", self._at):
                self._refuse("only ( ) and (?: ) are understood as groups")
            self._at += 2
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._refuse("too many groups within groups")
        part = self._alternatives()
        self._depth -= 1
        if not self._next_is(")"):
            self._refuse("a group is not closed")
        self._at += 1
        return part

    def _class(self) -> frozenset[str]:
        """Return the characters of a class, whose `[` has been read."""
        negated = self._next_is("^")
        self._at += negated
        chars: set[str] = set()
        while not self._next_is("]"):
            low = self._class_item()
            if self._next_is("-") and self.text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._class_item()
                if len(low) != 1 or len(high) != 1 or min(low) > min(high):
                    self._refuse("a range goes from one character up to another")
                low = frozenset(map(chr, range(ord(min(low)), ord(min(high)) + 1)))
            chars |= low
        self._at += 1
        if not chars:
            self._refuse("a class is empty")
        return frozenset(_ALPHABET - chars if negated else chars)

    def _class_item(self) -> frozenset[str]:
        if self._at >= len(self.text):
            self._refuse("a class is not closed")
        char = self.text[self._at]
        self._at += 1
        if char == "\\":
            return self._escape()
        if char == "[":  # so that [[:alpha:]] isn't read as something it is not
            self._refuse("a plain '[' is written '\\['")
        return frozenset(self._plain(char))

    def _escape(self) -> frozenset[str]:
        """Return the characters of an escape, whose backslash has been read."""
        char = self.text[self._at : self._at + 1]
        self._at += 1
        if char in _CLASSES:
            return _CLASSES[char]
        if not char or char.isalnum():
            self._refuse("after a backslash, only d, w or punctuation is allowed")
        return frozenset(self._plain(char))

    # --- building ---

    def _plain(self, char: str) -> str:
        if char not in _ALPHABET:
            self._refuse("paths hold no spaces or non-ASCII characters: write %XX")
        return char

    def _place(self, chars: frozenset[str]) -> _Part:
        if len(self.chars) >= _MAX_POSITIONS:
            raise BadPattern("the pattern is too large: its counts are too high")
        self.chars.append(chars)
        self.follow.append(0)
        mask = 1 << (len(self.chars) - 1)
        return _Part(empty=False, first=mask, last=mask)

    def _then(self, part: _Part, other: _Part) -> _Part:
        self._connect(part.last, other.first)
        return _Part(
            empty=part.empty and other.empty,
            first=part.first | other.first if part.empty else part.first,
            last=part.last | other.last if other.empty else other.last,
        )

    def _loop(self, part: _Part) -> None:
        self._connect(part.last, part.first)

    def _connect(self, last: int, first: int) -> None:
        for place in _bits(last):
            self.follow[place] |= first

    def _next_is(self, *chars: str) -> bool:
        return self.text[self._at : self._at + 1] in chars

    def _refuse(self, why: str) -> NoReturn:
        raise BadPattern(f"{why} (at character {max(self._at, 1)} of the pattern)")


def _bits(mask: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 4
