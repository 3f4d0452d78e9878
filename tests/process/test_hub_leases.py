"""The hub grants what the limit has, whichever worker asks."""

from __future__ import annotations

from gateway.process.hub_leases import LeaseBook
from gateway.process.lease_messages import DrawLeases, LeasesDrawn
from gateway.rate_limits.leases import DrawAnswer, DrawAsked

S = 1_000_000_000
KEY = "0123456789abcdef" * 2


def test_workers_draw_from_one_bucket() -> None:
    """Answers have the numbers of the wishes, and go to the worker that asked."""
    book = LeaseBook()
    asked = DrawAsked(1, KEY, S, 5, 1, 2)
    assert book.draw(DrawLeases((asked,), 3), 0) == LeasesDrawn(
        (DrawAnswer(1, 3, 0),), 3
    )
    both = DrawLeases((asked, asked._replace(number=9, extra=0)), 4)
    assert book.draw(both, 0) == LeasesDrawn(
        (DrawAnswer(1, 2, 0), DrawAnswer(9, 0, S)), 4
    )
    other = asked._replace(key=KEY[::-1])
    assert book.draw(DrawLeases((other,), 4), 0).answers == (DrawAnswer(1, 3, 0),)
