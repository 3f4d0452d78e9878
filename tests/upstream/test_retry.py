"""Retries: which errors are retried, how often, and the budget that bounds them."""

from __future__ import annotations

from typing import Any

import pytest
from compiled import retry_of
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    BadReply,
    ConnectFailed,
    ConnectTimeout,
    UpstreamBusy,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.upstream.retry import RESERVE, Attempts, Budget


@pytest.mark.parametrize(
    ("error", "targets", "attempts", "again"),
    [
        (ConnectFailed(), 2, 0, True),
        (ConnectTimeout(), 2, 0, True),
        (UpstreamBusy(), 2, 0, True),
        (ConnectFailed(), 1, 5, False),
        (UpstreamClosed(), 1, 1, True),
        (UpstreamClosed(reused=True), 1, 1, True),
        (UpstreamClosed(), 5, 0, False),
        (UpstreamTimeout(), 5, 5, False),
        (BadReply(), 5, 5, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_failure_decides(
    error: UpstreamError, targets: int, attempts: int, again: bool
) -> None:
    """The error decides whether there is another attempt.

    A request that wasn't sent goes to the next target, if there is one. A connection
    that was closed before the reply uses one of `attempts`. Nothing else is retried.
    """
    budgeted = Attempts(
        Budget(), retry_of(attempts=attempts), targets=targets, is_safe=True
    )
    assert budgeted.again(error) is again


@pytest.mark.parametrize(
    ("retry", "failure", "again"),
    [
        ({}, 503, False),
        ({"on": ("503",)}, 503, True),
        ({"on": ("503",)}, 502, False),
        ({"on": ("503",)}, 200, False),
        ({"on": ("503",), "attempts": 0}, 503, False),
        ({"on": ("503",)}, UpstreamClosed(), False),
        ({"on": ("503",)}, ConnectFailed(), False),
        ({"on": ("connect",)}, ConnectFailed(), True),
        ({"on": ("connect",)}, UpstreamClosed(), False),
        ({"per_try": 1}, UpstreamTimeout(), True),
        ({"per_try": 1, "attempts": 0}, UpstreamTimeout(), False),
        ({"per_try": 1}, BadReply(), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_safe", [True, False])
def test_the_settings_decide(
    retry: dict[str, Any], failure: int | UpstreamError, again: bool, is_safe: bool
) -> None:
    """`on` and `per_try` say what is retried; what was sent, only if it is safe."""
    here = Attempts(Budget(), retry_of(**retry), targets=2, is_safe=is_safe)
    expected = again and (is_safe or isinstance(failure, ConnectFailed))
    if isinstance(failure, int):
        assert here.again_for(failure) is expected
    else:
        assert here.again(failure) is expected


failures = st.lists(st.sampled_from([ConnectFailed(), UpstreamClosed()]), max_size=20)


@given(failures, st.integers(1, 4), st.integers(0, 5))
def test_every_request_comes_to_an_end(
    errors: list[UpstreamError], targets: int, attempts: int
) -> None:
    """Retries are at most the other targets and the attempts, whatever the errors."""
    budgeted = Attempts(
        Budget(), retry_of(attempts=attempts), targets=targets, is_safe=True
    )
    retries = 0
    for error in errors:
        if not budgeted.again(error):
            break
        retries += 1
    assert retries <= targets - 1 + attempts


@given(st.lists(st.booleans(), max_size=3000), st.floats(0.001, 1))
def test_retries_are_a_share_of_the_requests(events: list[bool], share: float) -> None:
    """Retries are at most the reserve and the share of the requests, in any order."""
    budget = Budget()
    requests = retries = 0
    for is_request in events:
        if is_request:
            requests += 1
            budget.earn(share)
        else:
            retries += budget.spend()
    assert retries <= RESERVE + share * requests + 1e-6


def test_a_spent_budget_refuses_until_requests_earn_more() -> None:
    """Five requests earn one retry; the budget saves up 100 at most."""
    budget = Budget()
    for _ in range(1000):
        budget.earn(retry_of().budget)
    assert sum(budget.spend() for _ in range(1000)) in (100, 101)
    attempts = Attempts(budget, retry_of(attempts=5), targets=1, is_safe=True)
    assert not attempts.again(UpstreamClosed())
    for _ in range(5):
        budget.earn(retry_of().budget)
    assert attempts.again(UpstreamClosed())
    assert not attempts.again(UpstreamClosed())


def test_the_next_target_costs_no_budget() -> None:
    """A failed connect costs no budget: it adds no request to a service's load."""
    budget = Budget()
    before = budget.left
    no_more = Attempts(budget, retry_of(), targets=2, is_safe=False)
    assert no_more.again(ConnectFailed())
    assert budget.left == before
