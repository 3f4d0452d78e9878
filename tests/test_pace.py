"""The delays between repeated attempts."""

from __future__ import annotations

import pytest

from gateway.pace import backoff_s, finite_s


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 3.0), (10**6, 3.0)]
)
def test_back_off(failures: int, delay_s: float) -> None:
    """The delay doubles with each failure, up to the maximum."""
    assert backoff_s(0.5, failures, 3.0) == delay_s


@pytest.mark.parametrize("value", [0, 1.5, -3, 2**60])
def test_a_finite_time(value: float) -> None:
    assert finite_s(value) == float(value)


@pytest.mark.parametrize(
    "value", [True, None, "1", [1], float("nan"), float("inf"), 10**400]
)
def test_what_is_no_time(value: object) -> None:
    """JSON can have all of these; a true isn't 1, and a huge number isn't finite."""
    with pytest.raises(ValueError, match="an invalid time"):
        finite_s(value)
