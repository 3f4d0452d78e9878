"""The keys below `gateway.decision`."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config


def parsed(**gateway: Any) -> config.Config:
    return config.parse(
        {
            "version": 1,
            "gateway": gateway,
            "services": {"up": {"targets": ["http://up:80"]}},
            "routes": [{"path": "/", "service": "up"}],
        }
    )


def decision(listen: str, **keys: Any) -> dict[str, Any]:
    return {"listen": listen, "endpoints": ["forward-auth"], **keys}


@pytest.mark.parametrize(
    "keys",
    [
        decision("127.0.0.1:9000"),
        decision("[::1]:9000"),
        decision("localhost:9000"),
        decision("unix:/run/decision.sock"),
        decision("0.0.0.0:9000", trusted=["10.0.0.0/8"]),
    ],
)
def test_who_may_ask_is_known(keys: dict[str, Any]) -> None:
    """This machine, who may open the socket, or the listed networks."""
    found = parsed(decision=keys).gateway.decision
    assert found is not None
    (listen,) = config.decision_listens(found)
    assert listen.address == keys["listen"]
    assert listen != config.ListenConfig(address=keys["listen"])


@pytest.mark.parametrize(
    ("keys", "place", "reason"),
    [
        (decision("0.0.0.0:9000"), "decision.listen", "trusted"),
        (decision("10.0.0.1:9000"), "decision.listen", "trusted"),
        (decision("unix:/s", trusted=["10.0.0.0/8"]), "decision.trusted", "Unix"),
        (decision("127.0.0.1:8000"), "decision.listen", "gateway.listen has this"),
        (decision("127.0.0.1:9000", endpoints=[]), "decision.endpoints", ""),
        (decision("127.0.0.1:9000", endpoints=["x"]), "decision.endpoints", ""),
        ({"listen": "127.0.0.1:9000"}, "decision", "endpoints"),
    ],
)
def test_refused_settings(keys: dict[str, Any], place: str, reason: str) -> None:
    """The place and the reason are named."""
    with pytest.raises(config.InvalidConfig) as caught:
        parsed(decision=keys)
    text = str(caught.value)
    assert place in text
    assert reason in text
