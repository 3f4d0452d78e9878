"""Route tables for the tests of OpenAPI documents."""

from __future__ import annotations

from typing import Any

from gateway import config, routes
from gateway.routes import RouteTable

TARGET = "http://up:8080"


def table_of(entries: list[dict[str, Any]]) -> RouteTable:
    """Return a table of routes in the file's form, to the service `up`."""
    return routes.compile(
        config.parse(
            {
                "version": 1,
                "supertokens": {"recipes": {"userroles": {}}},
                "services": {
                    "up": {"targets": [TARGET]},
                    "other": {"targets": [TARGET]},
                },
                "routes": entries,
            }
        )
    )
