"""Configurations for fronts, as text. tests/fronts/test_programs.py runs them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config, routes
from gateway.config import listen_address
from gateway.fronts.generated import FRONTS, NoFront, front_plan
from gateway.fronts.generated.templates import fill
from gateway.headers import IDENTITY_NAMES

ALL = ["auth-request", "forward-auth", "ext-authz"]
HAVE_NAMES = [front for front in FRONTS if front != "haproxy"]


def made(
    front: str,
    *,
    decision: Any = None,
    own: str = "127.0.0.1:8000",
    target: str = "http://10.0.0.1:8080",
    route: Any = None,
    at: str | None = None,
) -> str:
    """Return the configuration of *front* for a small route table."""
    if decision is None:
        decision = {"listen": "127.0.0.1:9000", "endpoints": ALL}
    one = {"path": "/orders", "service": "orders", **(route or {})}
    loaded = config.parse(
        {
            "version": 1,
            "gateway": {"listen": own, **({"decision": decision} if decision else {})},
            "services": {"orders": {"targets": [target]}},
            "routes": [{key: value for key, value in one.items() if value}],
        }
    )
    endpoint, write = FRONTS[front]
    plan = front_plan(
        loaded,
        routes.compile(loaded),
        front,
        endpoint,
        listen=listen_address("[::]:80"),
        decision=None if at is None else listen_address(at),
    )
    return write(plan)


@pytest.mark.parametrize("front", HAVE_NAMES)
def test_each_identity_name_is_there(front: str) -> None:
    """The gateway's own, and those of the routes."""
    text = made(front, route={"identity": {"headers": {"X-Plan": "{claims.plan}"}}})
    for name in (*IDENTITY_NAMES, "X-Plan"):
        assert name.lower() in text.lower(), name


@pytest.mark.parametrize("front", FRONTS)
def test_no_place_is_left_open(front: str) -> None:
    """Every line is complete, and ends without blanks."""
    text = made(front)
    assert text.startswith(("#", "--"))
    for line in text.splitlines():
        assert line == line.rstrip()
        assert "None" not in line


@pytest.mark.parametrize("front", FRONTS)
def test_where_the_gateway_is(front: str) -> None:
    """As in the file, from the same machine; or where the option says."""
    near = made(front, own="0.0.0.0:8001")
    far = made(front, own="0.0.0.0:8001", at="gateway.test:9001")
    if front != "haproxy":  # its script asks
        assert "127.0.0.1:9000" in near or '"127.0.0.1", port_value: 9000' in near
        assert "gateway.test:9001" in far or '"gateway.test", port_value: 9001' in far
    if front != "haproxy-lua":
        assert "127.0.0.1:8001" in near or '"127.0.0.1", port_value: 8001' in near
        assert "gateway.test:8001" in far or '"gateway.test", port_value: 8001' in far


@pytest.mark.parametrize("front", [each for each in FRONTS if each != "traefik"])
def test_unix_sockets(front: str) -> None:
    """Of the gateway and of services."""
    text = made(
        front,
        decision={"listen": "unix:/run/decision.sock", "endpoints": ALL},
        own="unix:/run/own.sock",
        target="unix:/run/orders.sock",
    )
    names = {"/run/decision.sock", "/run/own.sock", "/run/orders.sock"}
    if front == "haproxy":
        names.remove("/run/decision.sock")
    if front == "haproxy-lua":
        names = {"/run/decision.sock"}
    for name in names:
        assert name in text
    assert "127.0.0.1" not in text


def test_without_a_plain_address_of_the_gateway() -> None:
    """Its own paths are judged like all others, and refused."""
    for front in FRONTS:
        assert "/auth/" not in made(front, own="127.0.0.1:0")


def test_services_with_other_names() -> None:
    """A route's `upstream` has no name that a front takes."""
    for front in ("nginx", "caddy", "envoy", "haproxy", "traefik"):
        text = made(front, route={"service": None, "upstream": "http://10.0.0.9:81"})
        assert "app_1" in text
        assert "http://10.0.0.9:81" in text


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"decision": False}, "gateway.decision.listen isn't set"),
        ({"decision": {"listen": "127.0.0.1:0", "endpoints": ALL}}, "at each start"),
        ({"target": "https://orders.test"}, "uses TLS"),
    ],
)
def test_what_no_front_can_do(front: str, keys: Any, message: str) -> None:
    """The message has the reason, and the next line a remedy."""
    with pytest.raises(NoFront, match=message) as refused:
        made(front, **keys)
    assert str(refused.value).count("\n") == 1


@pytest.mark.parametrize("front", FRONTS)
def test_a_front_needs_its_endpoint(front: str) -> None:
    """The remedy lists it beside the others."""
    others = [each for each in ALL if each != FRONTS[front][0]]
    with pytest.raises(NoFront, match="doesn't list") as refused:
        made(front, decision={"listen": "127.0.0.1:9000", "endpoints": others})
    assert f"endpoints: [{', '.join((*others, FRONTS[front][0]))}]" in str(
        refused.value
    )


@pytest.mark.parametrize(
    "keys",
    [
        {"route": {"rewrite": {"strip_prefix": "/orders"}}},
        {"target": "unix:/run/orders.sock"},
        {"own": "unix:/run/own.sock"},
        {"decision": {"listen": "unix:/run/decision.sock", "endpoints": ALL}},
    ],
)
def test_what_traefik_cannot_do(keys: Any) -> None:
    """The others can."""
    with pytest.raises(NoFront, match="Traefik"):
        made("traefik", **keys)
    made("envoy", **keys)


def test_notes() -> None:
    """What has no effect stands at the beginning."""
    assert "# Not done by nginx: forward_credentials" in made("nginx")
    text = made("nginx", route={"forward_credentials": True})
    assert "forward_credentials" not in text


def test_templates() -> None:
    """A part of lines keeps its indentation; one that is unknown is a mistake."""
    assert fill("a {\n  @b@\n}\n@c@\n", b=["x", "", "y"], c=()) == (
        "a {\n  x\n\n  y\n}\n"
    )
    assert fill("a @b@ c", b="x") == "a x c"
    with pytest.raises(KeyError):
        fill("@b@\n")


@pytest.mark.parametrize("front", ["caddy", "haproxy-lua", "traefik"])
def test_a_canonical_path_is_the_one_that_is_forwarded(front: str) -> None:
    """Else a front would forward a path that wasn't judged."""
    decision = {"listen": "127.0.0.1:9000", "endpoints": ALL}
    strict = made(front, decision=decision)
    canonical = {**decision, "path": "canonical"}
    if front == "traefik":
        with pytest.raises(NoFront, match="canonical"):
            made(front, decision=canonical)
        return
    assert "x-gateway-target" in made(front, decision=canonical).lower()
    assert made(front, decision=canonical) != strict
