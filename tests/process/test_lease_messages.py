"""Messages about leases: both ways, and checked."""

from __future__ import annotations

import pytest

from gateway.process import messages
from gateway.process.lease_messages import (
    MAX_DRAWS,
    DrawLeases,
    LeaseMessage,
    LeasesDrawn,
    from_json,
)
from gateway.process.message_values import BadMessage
from gateway.rate_limits.leases import DrawAnswer, DrawAsked

KEY = "0123456789abcdef" * 2
ASKED = DrawAsked(1, KEY, 10**9, 5, 1, 0)


@pytest.mark.parametrize(
    "message",
    [
        DrawLeases((ASKED, ASKED._replace(number=2))),
        DrawLeases((ASKED,) * MAX_DRAWS, 7),
        DrawLeases((ASKED._replace(sharing="deny"),)),
        LeasesDrawn((DrawAnswer(1, 3, 0), DrawAnswer(2, 0, 10**12)), 7),
        DrawLeases(()),
    ],
)
def test_messages_arrive_as_they_were_sent(message: LeaseMessage) -> None:
    """Encoded and decoded, a message is the same."""
    assert messages.Decoder().feed(messages.encode(message)) == [message]


@pytest.mark.parametrize(
    "value",
    [
        {"draw": []},
        {"draw": [0, [1, KEY, 1, 1, 1]]},
        {"draw": [0, [1, KEY, 1, 1, 1, 0, "often"]]},
        {"draw": [0, [1, "key", 1, 1, 1, 0]]},
        {"draw": [0, [1, KEY, 0, 1, 1, 0]]},
        {"draw": [0, [1, KEY, 1, 10**9, 1, 0]]},
        {"draw": [0, [1, KEY, 1, 1, -1, 0]]},
        {"draw": [0, [1, KEY, 1, 1, True, 0]]},
        {"draw": [0, [1, KEY, 1.5, 1, 1, 0]]},
        {"draw": [0, *[[1, KEY, 1, 1, 1, 0]] * (MAX_DRAWS + 1)]},
        {"draw": [0], "more": 1},
        {"drawn": [0, [1, 1]]},
        {"drawn": [0, [1, -1, 0]]},
        {"drawn": ["0", [1, 1, 0]]},
        {"other": 1},
    ],
)
def test_other_messages_are_refused(value: object) -> None:
    """A worker faces the internet: its messages are checked."""
    with pytest.raises(BadMessage):
        from_json(value)
