"""What follows from the checks of a target: how many it takes to be down, and up."""

from __future__ import annotations

import pytest
from checked_services import check
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.checked import CheckedTarget, is_good


@pytest.mark.parametrize(
    ("results", "up", "down", "is_down"),
    [
        ("", 2, 2, False),
        ("-", 2, 2, False),
        ("--", 2, 2, True),
        ("-+-", 2, 2, False),
        ("--+", 2, 2, True),
        ("--+-+", 2, 2, True),
        ("--++", 2, 2, False),
        ("-", 1, 1, True),
        ("-+", 1, 1, False),
        ("--++++", 5, 1, True),
        ("--+++++", 5, 1, False),
    ],
)
def test_results_in_a_row_decide(
    results: str, up: int, down: int, is_down: bool
) -> None:
    """A result that agrees with the state begins a new row."""
    here = CheckedTarget(check(up=up, down=down))
    for result in results:
        here.note(is_well=result == "+")
    assert here.is_down is is_down


@given(st.lists(st.booleans()), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_in_any_order(results: list[bool], up: int, down: int, begins: bool) -> None:
    """A state changes only after enough results in a row against it, and then at once.

    `note` says so exactly when it changes.
    """
    here = CheckedTarget(check(up=up, down=down), is_down=begins)
    row = 0
    for is_well in results:
        before = here.is_down
        row = row + 1 if is_well is before else 0
        is_changed = here.note(is_well=is_well)
        assert is_changed == (here.is_down is not before)
        assert is_changed == (row == (up if before else down))
        if is_changed:
            row = 0


@pytest.mark.parametrize(
    ("status", "good"),
    [(200, True), (204, True), (399, True), (199, False), (400, False), (503, False)],
)
def test_statuses(status: int, good: bool) -> None:
    assert is_good(status) is good
