"""Marks of lines, and names that services may read as one."""

from __future__ import annotations

from gateway.headers import names

MARKS = (
    *("LISTS", "HAS_CREDENTIALS", "HAS_ODD", "HAS_TRUSTED", "HAS_FORWARDED"),
    *("RULES_CACHES", "VARIES", "SETS_SESSION", "IS_DATED", "HAS_LOCATION"),
    *("SETS_COOKIE", "HAS_BEARER", "EXPOSES", "EDITED", "HAS_TRACE"),
)


def test_each_mark_is_a_bit_of_its_own() -> None:
    """Marks of a head are joined: with a bit in common, one would be taken for two.

    (`make mutants` runs tests of a file by the functions that they call.)
    """
    marks = [getattr(names, name) for name in MARKS]
    assert all(mark.bit_count() == 1 for mark in marks)
    assert sum(marks) == (1 << len(MARKS)) - 1
    assert names.fold(b"X_User.Id") == names.fold(b"x-user-id")
