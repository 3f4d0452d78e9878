"""Checks of services, and files that have them."""

from __future__ import annotations

from typing import Any

from gateway.process.plan_events import LoadedFile
from gateway.upstream.checked import ServiceCheck


def check(**changes: Any) -> ServiceCheck:
    """Return a check of a service with one target."""
    facts: dict[str, Any] = {
        "service": "up",
        "targets": ("http://a:80",),
        "resolve_s": None,
        "path": "/healthz",
        "interval_s": 10.0,
        "timeout_s": 2.0,
        "up": 2,
        "down": 2,
        "host": None,
        "ca_file": None,
        "server_name": None,
        "verify": True,
    }
    return ServiceCheck(**facts | changes)


def loaded(generation: int, *checks: ServiceCheck) -> LoadedFile:
    """Return the facts about a file with these *checks*."""
    return LoadedFile(
        generation=generation,
        path="routes.yaml",
        listen="a:1",
        probes=None,
        pidfile=None,
        drain_s=1.0,
        shutdown_delay_s=0.0,
        startup_timeout_s=1.0,
        sdk="one",
        keys_refresh_s=300.0,
        keys_timeout_s=3.0,
        checks=checks,
    )
