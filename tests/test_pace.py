"""The delays between repeated attempts."""

from __future__ import annotations

import pytest

from gateway.pace import backoff_s


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 3.0), (10**6, 3.0)]
)
def test_back_off(failures: int, delay_s: float) -> None:
    """The delay doubles with each failure, up to the maximum."""
    assert backoff_s(0.5, failures, 3.0) == delay_s
