"""When a client that reads is told from one that doesn't, in numbers alone."""

from __future__ import annotations

import pytest

from gateway.config import LimitsConfig
from gateway.downstream.read_progress import ReadProgress
from gateway.pace import Pace

LIMITS = LimitsConfig(write_idle_timeout=30)
PACE = Pace(reply_rate_grace_s=10)
RATE = 100


def judged(
    steps: list[tuple[float, int | None]], *, first: int = 0, min_rate: int = RATE
) -> list[str]:
    """Return the code of each check; None as a position is a pause."""
    progress = ReadProgress(0, first)
    codes = []
    for now, position in steps:
        if position is None:
            progress.pause()
            continue
        error = progress.check(now, position, LIMITS, PACE, min_rate=min_rate)
        codes.append("" if error is None else error.code)
    return codes


def test_nothing_for_the_timeout_is_a_stall() -> None:
    """Longer than the timeout, counted from the last byte that was received."""
    assert judged([(30, 0), (30.5, 0)]) == ["", "client_stalled"]
    assert judged([(29, 5000), (59, 5000), (59.5, 5000)]) == ["", "", "client_stalled"]


def test_one_byte_is_no_stall() -> None:
    """Without a rate, a client may take as long as it likes."""
    steps: list[tuple[float, int | None]] = [(29.0 * n, n) for n in range(1, 50)]
    assert set(judged(steps, min_rate=0)) == {""}


@pytest.mark.parametrize(
    ("waited_s", "received", "code"),
    [
        pytest.param(9, 1, "", id="too slow, in the grace"),
        pytest.param(11, 1, "client_slow", id="too slow, after it"),
        pytest.param(11, 1099, "client_slow", id="almost fast enough"),
        pytest.param(11, 1100, "", id="fast enough"),
    ],
)
def test_the_average_has_a_least_rate(
    waited_s: float, received: int, code: str
) -> None:
    """`download_min_rate`, over the time in which bytes waited for the client."""
    assert judged([(waited_s, received)]) == [code]


def test_what_was_received_before_counts() -> None:
    """The average is that of the response, as it is for a request's body."""
    assert judged([(11, 1)], first=1100) == [""]
    # A response behind others: what they still have to deliver isn't held against it.
    assert judged([(11, -8000)], first=-9500) == [""]


def test_a_pause_of_the_reader_isnt_judged_by_its_rate() -> None:
    """A client that goes on in time is heard; the rate is judged when it moves."""
    assert judged([(15, 0), (29, 3000)]) == ["", ""]


def test_time_without_waiting_bytes_isnt_counted() -> None:
    """The upstream was waited for meanwhile: neither a stall nor a slow client."""
    assert judged([(5, 600), (6, None), (100, 600), (101, 800)]) == ["", "", ""]
    assert judged([(5, 600), (6, None), (100, 600), (129, 600), (131, 600)]) == [
        *("", "", ""),
        "client_stalled",
    ]


def test_another_origin_is_no_progress_to_be_credited() -> None:
    """When the next response begins, positions begin anew, and the average goes on."""
    progress = ReadProgress(0, 500)
    assert progress.check(11, 1200, LIMITS, PACE, min_rate=RATE) is None
    progress.rebase(12, -50_000)
    assert progress.check(13, -49_900, LIMITS, PACE, min_rate=RATE) is None
    error = progress.check(14, -49_899, LIMITS, PACE, min_rate=RATE)
    assert error is not None
    assert error.code == "client_slow"
