"""Messages about rejected connections: the first at once, the others summed up."""

from __future__ import annotations

import pytest

from gateway.downstream.rejections import Rejections


def test_a_flood_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """With the limit, the number, and the address of the last one."""
    rejections = Rejections(10)
    for second in range(15):
        rejections.add("limit.a", f"192.0.2.{second}", 100.0 + second)
    rejections.add("limit.b", "2001:db8::1", 116.0)
    rejections.report(119.0)
    assert len(caplog.messages) == 2
    rejections.report(120.0)
    rejections.report(140.0)
    why = "new connections closed because of"
    assert caplog.messages == [
        f"{why} limit.a: 1, the last one from 192.0.2.0",
        f"{why} limit.a: 10, the last one from 192.0.2.10",
        f"{why} limit.a: 4, the last one from 192.0.2.14",
        f"{why} limit.b: 1, the last one from 2001:db8::1",
    ]
    assert rejections.total == 16
