"""Patterns agree with Python's `re` and take linear time at most."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from cost import grows_linearly
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http import path_pattern
from gateway.http.path_pattern import BadPattern, Pattern

ATOMS = st.sampled_from(
    ["a", "b", "/", r"\.", ".", "[ab]", "[^/]", "[a-c/]", r"\d", r"\w", "7"]
)
REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}"])


def sequences(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw atoms and groups with repeats, in sequence or as alternatives."""
    group = inner.map(lambda text: f"({text})") | inner.map(lambda text: f"(?:{text})")
    repeated = st.builds(str.__add__, ATOMS | group, REPEATS)
    return st.lists(repeated, min_size=1, max_size=4).map("".join) | st.lists(
        repeated, min_size=1, max_size=3
    ).map("|".join)


PATTERNS = st.recursive(ATOMS, sequences, max_leaves=8)
FLAT = st.lists(st.builds(str.__add__, ATOMS, REPEATS), max_size=4).map("".join)
"""Without groups: `re`, which makes paths that match, takes for ever on `((a*)*)*`."""


@settings(max_examples=400, deadline=None)
@given(text=PATTERNS, path=st.text(alphabet="ab/.7%", max_size=8))
def test_agrees_with_re(text: str, path: str) -> None:
    """Every accepted pattern has the meaning that it has in Python's `re`."""
    expected = re.fullmatch(text, path) is not None
    assert Pattern(text).matches(path) == expected


@settings(max_examples=300, deadline=None)
@given(text=PATTERNS, path=st.text(alphabet="ab/.7", max_size=6))
def test_every_match_begins_with_the_literal_prefix(text: str, path: str) -> None:
    """Every match begins with `literal_prefix`, by which routes are looked up."""
    compiled = Pattern(text)
    if compiled.matches(path):
        assert path.startswith(compiled.literal_prefix)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("/api/v[0-9]+/x", "/api/v"),
        (r"/a\.b/c", "/a.b/c"),
        ("/a/b*", "/a/"),
        ("/a/bc?", "/a/b"),
        ("/a|/b", "/"),
        ("/a|x", ""),
        ("/a|/a/b", "/a"),
        ("/(a)(b){2}[c]/.*", "/abbc/"),
        ("(/a)?", ""),
        ("(/a)*", ""),
        ("(/a)+", "/a"),
        ("", ""),
    ],
)
def test_literal_prefix(text: str, prefix: str) -> None:
    """The prefix ends at the first character where two matching paths can differ."""
    assert Pattern(text).literal_prefix == prefix


@settings(max_examples=300, deadline=None)
@given(head=st.sampled_from(["", "/a", "/a/b", "/ab"]), tail=FLAT, data=st.data())
def test_begins_with_ends_at_a_border(
    head: str, tail: str, data: st.DataObject
) -> None:
    """A prefix is stripped from a path at segment borders only."""
    compiled = Pattern(head + tail)
    path = data.draw(st.from_regex(compiled.text, fullmatch=True, alphabet="ab/.7"))
    prefix = path[: data.draw(st.integers(0, len(compiled.literal_prefix)))]
    if compiled.begins_with(prefix):
        assert path == prefix or path.startswith(f"{prefix}/")


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        ("/a/b.*", "/a", True),
        ("/a/b.*", "/a/b", False),
        ("/a(/.*)?", "/a", True),
        ("/ab?/c", "/a", False),
        ("/a/.*", "/b", False),
    ],
)
def test_begins_with(text: str, prefix: str, expected: bool) -> None:
    """It is true for every prefix that can be stripped, not just for some."""
    assert Pattern(text).begins_with(prefix) is expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("^/a", "leave out ^ and $"),
        ("/a$", "leave out ^ and $"),
        ("/(a", "a group is not closed"),
        ("/a)", "closes no group"),
        ("/[a", "a class is not closed"),
        ("/[]", "a class is empty"),
        ("/[z-a]", "a range"),
        (r"/[\d-z]", "a range"),
        ("/[[:alpha:]]", r"written '\\['"),
        ("/*a*?", "a repeat can't be repeated"),
        ("/a++", "a repeat can't be repeated"),
        ("/+*", "a repeat can't be repeated"),
        ("/(?=a)", "only"),
        ("/(?i)a", "only"),
        (r"/(a)\1", "after a backslash"),
        (r"/\s", "after a backslash"),
        ("/a\\", "after a backslash"),
        ("/a{", "expected {2}"),
        ("/a{23", "expected {2}"),
        ("/a{x}", "expected {2}"),
        ("/a{1,y}", "expected {2}"),
        ("/a{,3}", "expected {2}"),
        ("/a{3,1}", "a count"),
        ("/a{0}", "a count"),
        ("/a{0,0}", "a count"),
        ("/a{4000}", "expected {2}"),
        ("/}", r"written '\\}'"),
        ("/caf\xe9", "write %XX"),
        ("/a b", "write %XX"),
        ("/a{600}", "too large"),
        ("/((a{90}){90}){90}", "too large"),
        ("/" + "(" * 30 + "a" + ")" * 30, "too many groups"),
        ("/" + "a" * 600, "at most 512 characters"),
    ],
)
def test_refused(text: str, says: str) -> None:
    """An unsupported pattern is refused with the position and the remedy."""
    with pytest.raises(BadPattern, match=re.escape(says).replace(r"\\\\", r"\\")):
        Pattern(text)


def test_unknown_characters_match_nothing() -> None:
    """`.` and negated classes match the characters of canonical paths only."""
    assert not Pattern("/.").matches("/\n")
    assert not Pattern("/[^a]").matches("/\xe9")
    assert not Pattern("/.").matches("/ ")


@pytest.mark.parametrize(
    "text",
    ["/(a+)+", "/(a|a)*", "/(a*)*b", "/.*.*.*.*x", "/a?" * 60 + "a" * 60],
    ids=["nested", "ambiguous", "nested-fails", "many-stars", "optional"],
)
def test_long_paths_cost_little(text: str) -> None:
    """Patterns with exponential time in Python's `re` are linear here, up to 8 KiB."""
    assert not Pattern(text).matches("/" + "a" * 8000 + "!")

    def matching(size: int) -> Callable[[], object]:
        compiled = Pattern(text)
        return lambda: compiled.matches("/" + "a" * size + "!")

    assert grows_linearly(matching, 8000)


def test_remembered_states_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states cached for the paths that clients choose are bounded."""
    monkeypatch.setattr(path_pattern, "_MAX_STATES", 8)
    compiled = Pattern("/.*a.{6}")
    paths = [f"/{number:07b}".replace("1", "a") for number in range(128)]
    for _ in range(2):
        assert [compiled.matches(path) for path in paths] == [
            re.fullmatch("/.*a.{6}", path) is not None for path in paths
        ]
    assert len(compiled._automaton._states) <= 8


def test_compared_by_text() -> None:
    """Patterns with the same text are equal, so that their routes are one place."""
    assert Pattern("/a.*") == Pattern("/a.*")
    assert hash(Pattern("/a.*")) == hash(Pattern("/a.*"))
    assert Pattern("/a.*") != Pattern("/b.*")
    assert Pattern("/a") != "/a"
    assert repr(Pattern("/a")) == "Pattern('/a')"
