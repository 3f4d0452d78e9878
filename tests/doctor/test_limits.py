"""What the limits of a machine mean, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway import routes
from gateway.config import GatewayConfig, listen_address, parse
from gateway.doctor import limits
from gateway.doctor.limits import ListenFacts, MachineFacts, SinkFacts
from gateway.routes import Service

MIB = 1024**2
MACHINE = MachineFacts(
    in_container=False, descriptors=None, cpus=2, memory_bytes=None, workers=2
)


@pytest.mark.parametrize(
    ("address", "in_container", "facts", "severity"),
    [
        ("0.0.0.0:80", True, {}, "ok"),
        ("127.0.0.1:80", False, {}, "ok"),
        ("127.0.0.1:80", True, {}, "warn"),
        ("localhost:80", True, {}, "warn"),
        ("[::1]:80", True, {"is_in_use": True}, "warn"),
        ("unix:/run/a.sock", True, {}, "ok"),
        ("0.0.0.0:80", True, {"is_in_use": True}, "warn"),
        ("0.0.0.0:80", True, {"trouble": "needs more rights"}, "fail"),
    ],
)
def test_listening(
    address: str, in_container: bool, facts: dict[str, object], severity: str
) -> None:
    """A container's loopback is reached from inside only."""
    listen = ListenFacts(address=listen_address(address), **facts)  # type: ignore[arg-type]
    assert limits.listening(listen, in_container=in_container).severity == severity


def services() -> list[Service]:
    config = parse(
        {
            "version": 1,
            "services": {
                "a": {"targets": ["http://a:1", "http://a:2"], "max_connections": 10}
            },
            "routes": [{"path": "/", "service": "a"}],
        }
    )
    (route,) = routes.compile(config).routes
    assert route.service is not None
    return [route.service]


@pytest.mark.parametrize(
    ("limit", "severity"),
    [(None, "ok"), (184, "ok"), (183, "warn"), (84, "warn"), (83, "fail")],
)
def test_descriptors(limit: int | None, severity: str) -> None:
    """100 clients, 20 connections to services, and 64 to spare."""
    gateway = GatewayConfig.model_validate({"limits": {"max_connections": 100}})
    machine = replace(MACHINE, descriptors=limit)
    assert limits.descriptors(machine, gateway, services()).severity == severity


def test_processors() -> None:
    """More workers than CPUs take turns."""
    assert limits.processors(MACHINE).severity == "ok"
    assert limits.processors(replace(MACHINE, workers=3)).severity == "warn"


@pytest.mark.parametrize(
    ("limit", "tokens", "per_worker", "severity"),
    [
        (None, 20000, None, "ok"),
        (134 * MIB, 0, 0, "fail"),
        (135 * MIB, 0, 0, "ok"),
        (135 * MIB, 1, 0, "warn"),
        (335 * MIB, 0, 100 * MIB, "ok"),
        (334 * MIB, 0, 100 * MIB, "warn"),
        (9999 * MIB, 20000, None, "warn"),
    ],
)
def test_memory(
    limit: int | None, tokens: int, per_worker: int | None, severity: str
) -> None:
    """75 MiB, and for each of the two workers 30 MiB, its tokens and its budget."""
    machine = replace(MACHINE, memory_bytes=limit)
    found = limits.memory(machine, tokens=tokens, per_worker=per_worker)
    assert found.severity == severity


@pytest.mark.parametrize(
    ("timeout_s", "severity"), [(None, "ok"), (42.0, "fail"), (42.5, "ok")]
)
def test_stopping(timeout_s: float | None, severity: str) -> None:
    """What stops the gateway must wait longer than a stop takes."""
    machine = replace(MACHINE, stop_timeout_s=timeout_s)
    assert limits.stopping(machine, 42.0).severity == severity


@pytest.mark.parametrize(
    ("facts", "severity"),
    [
        (SinkFacts(), "ok"),
        (SinkFacts(free_bytes=100 * MIB), "ok"),
        (SinkFacts(free_bytes=100 * MIB - 1), "warn"),
        (SinkFacts(trouble="Bad file descriptor"), "warn"),
    ],
)
def test_sink(facts: SinkFacts, severity: str) -> None:
    """A full disk loses the access log."""
    assert limits.sink(facts).severity == severity
