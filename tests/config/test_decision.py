"""The keys below `gateway.decision`."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config, routes


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


def test_grpc_is_an_address_of_its_own() -> None:
    """Beside the one for HTTP, or instead of it."""
    both = parsed(decision=decision("127.0.0.1:0", grpc="127.0.0.1:0"))
    listens = config.decision_listens(both.gateway.decision)
    assert [type(one) for one in listens] == [config.DecisionListen, config.GrpcListen]
    only = parsed(decision={"grpc": "unix:/run/grpc.sock"})
    (listen,) = config.decision_listens(only.gateway.decision)
    assert isinstance(listen, config.GrpcListen)


@pytest.mark.parametrize(
    ("keys", "place", "reason"),
    [
        (decision("0.0.0.0:9000"), "decision.listen", "trusted"),
        (decision("10.0.0.1:9000"), "decision.listen", "trusted"),
        (decision("unix:/s", trusted=["10.0.0.0/8"]), "decision.trusted", "Unix"),
        (decision("127.0.0.1:8000"), "decision.listen", "gateway.listen has this"),
        (decision("127.0.0.1:9000", grpc="0.0.0.0:9001"), "decision.grpc", "trusted"),
        (decision("127.0.0.1:9000", grpc="127.0.0.1:8000"), "decision.grpc", "listen"),
        (
            decision("127.0.0.1:9000", grpc="localhost:9000"),
            "decision.grpc",
            "gateway.decision.listen has this",
        ),
        ({"grpc": "unix:/s", "trusted": ["10.0.0.0/8"]}, "decision.trusted", "Unix"),
        ({"grpc": "127.0.0.1:9001", "endpoints": ["ext-authz"]}, "decision", "listen"),
        ({}, "decision", "no address"),
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


def test_defaults_are_the_safe_ones() -> None:
    """A path is as it was judged, and clients get their tokens."""
    found = parsed(decision=decision("127.0.0.1:9000")).gateway.decision
    assert found is not None
    assert (found.path, found.new_tokens) == ("strict", "deliver")


@pytest.mark.parametrize(
    ("place", "level"),
    [
        ("routes[0].require.max_age", {"routes": {"require": {"max_age": 60}}}),
        ("services.up.require.max_age", {"services": {"require": {"max_age": 60}}}),
        (
            "routes[0].require.any[0].max_age",
            {"routes": {"require": {"any": [{"max_age": 60, "tenants": ["a"]}]}}},
        ),
    ],
)
def test_withheld_tokens_and_claims_that_are_fetched_again(
    place: str, level: dict[str, Any]
) -> None:
    """The claims would come in a token that nobody gets: each request would ask."""
    for new_tokens in ("deliver", "withhold"):
        loaded = config.parse(
            {
                "version": 1,
                "gateway": {
                    "decision": decision("127.0.0.1:9000", new_tokens=new_tokens)
                },
                "services": {
                    "up": {"targets": ["http://up:80"], **level.get("services", {})}
                },
                "routes": [{"path": "/", "service": "up", **level.get("routes", {})}],
            }
        )
        if new_tokens == "deliver":
            routes.compile(loaded)
            continue
        with pytest.raises(config.InvalidConfig) as caught:
            routes.compile(loaded)
        (finding,) = caught.value.findings
        assert finding.path == place
        assert finding.see == ("gateway", "decision", "new_tokens")
