"""edge. The endpoints of the embedded core, by API path."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.dev.core.api import (
    dashboard,
    email,
    metadata,
    role,
    session,
    sign_in_up,
    system,
    tenant,
    user,
)
from gateway.dev.core.api.endpoint import Call, Endpoint, Scope
from gateway.dev.core.api.system import CDI_VERSION

__all__ = ["CDI_VERSION", "ENDPOINTS", "Call", "Endpoint", "Scope"]


def _by_path() -> Mapping[str, Sequence[Endpoint]]:
    table: defaultdict[str, list[Endpoint]] = defaultdict(list)
    for module in (
        system,
        tenant,
        session,
        user,
        sign_in_up,
        email,
        role,
        metadata,
        dashboard,
    ):
        for endpoint in module.ENDPOINTS:
            table[endpoint.path].append(endpoint)
    return dict(table)


ENDPOINTS: Final = _by_path()
