"""The changes that `make mutants` makes to a file."""

from __future__ import annotations

import ast

import pytest

from tools.mutations import mutations

_BEGIN = "def f(a: int, b: int) -> bool:\n"


def afters(text: str) -> set[str]:
    """Return what the changed lines of a file read."""
    return {each.after for each in mutations("x.py", text.encode())}


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("if a < b: pass", "if a <= b: pass"),
        ("if a not in b: pass", "if a in b: pass"),
        ("if a is None: pass", "if a is not None: pass"),
        ("if a and b: pass", "if a or b: pass"),
        ("if a and b: pass", "if ((a)): pass"),
        ("if a: pass", "if (not a): pass"),
        ("if not a: pass", "if (a): pass"),
        ("a = 41", "a = 42"),
        ("a = True", "a = False"),
        ("a = 'é' == b'Host'", "a = 'é' == b'XX'"),
        ("raise ValueError(a)", "pass"),
        ("a.close()", "pass"),
        ("a = b.lower()", "a = b"),
        ("a = min(a, b)", "a = max(a, b)"),
        ("a = g(a, b)", "a = g(b, a)"),
        ("a = {'one', 'two'}", "a = { 'two'}"),
        ("return a in b", "return False"),
        ("a = [c for c in a if c > 0]", "a = [c for c in a if True]"),
    ],
)
def test_a_change(line: str, changed: str) -> None:
    """One operator, constant, condition or statement is another one, or is missing."""
    assert changed in afters(f"{_BEGIN}    {line}\n")


@pytest.mark.parametrize(
    "text",
    [
        '"""A docstring of 3 lines."""\n',
        "class A:\n    __slots__ = ('a', 'b')\n",
        "from a import b\n",
        f"{_BEGIN}    assert a < b\n",
        f"{_BEGIN}    log.info('a', 3)\n",
    ],
)
def test_what_no_rule_depends_on_is_left(text: str) -> None:
    """Docstrings, slots, imports, assertions and what is only logged stay."""
    assert afters(text) == set()


def test_a_change_replaces_its_own_text_only() -> None:
    """Positions are of bytes, so text beyond ASCII before it doesn't shift them."""
    source = f"{_BEGIN}    é = 'é'; return a <= b\n".encode()
    (change,) = (each for each in mutations("x.py", source) if " < " in each.after)
    assert change.applied(source) == source.replace(b"<=", b"<")
    ast.parse(change.applied(source))


def test_a_change_has_the_same_name_on_another_line() -> None:
    """What is said of it stays with it when lines are added above."""
    text = f"{_BEGIN}    return a < b\n".encode()
    names = [each.name for each in mutations("x.py", text)]
    assert [each.name for each in mutations("x.py", b"# a\n\n" + text)] == names
    assert len(set(names)) == len(names)


def test_changes_that_read_the_same_are_numbered() -> None:
    """Two equal lines of one function have a change each."""
    text = f"{_BEGIN}    a -= 1\n    a -= 1\n".encode()
    names = [each.name for each in mutations("x.py", text)]
    assert len(set(names)) == len(names)


def test_the_lines_of_a_statement() -> None:
    """A condition's are those before its block; coverage counts a whole statement."""
    text = f"{_BEGIN}    if g(\n        a < b,\n    ):\n        a = 1\n".encode()
    (change,) = (each for each in mutations("x.py", text) if "<=" in each.after)
    assert (change.line, change.statement) == (3, (2, 4))
