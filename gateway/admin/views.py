"""PURE. What the admin listener shows of a configuration: never a secret.

The supervisor computes it when a file is loaded, and sends it to the hub. It is packed
because 10,000 routes take megabytes, and nearly all of that is repetition.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

from gateway.config import Config
from gateway.config.secret import shown
from gateway.routes import RouteTable, rows

PARTS: Final = ("config", "routes", "services")
"""What a description has, each of it as JSON."""
_MAX_PACKED: Final = 300_000
"""Of one part, in characters: all of them fit in one message to the hub."""
_INDENT: Final = 1


def describe(config: Config, table: RouteTable) -> dict[str, str]:
    """Return the parts of a description, packed."""
    effective = shown(config)
    parts = {
        "config": {"hash": hash_of(effective), "config": effective},
        "routes": [row._asdict() for row in rows(table)],
        "services": _services(table),
    }
    return {name: _pack(part) for name, part in parts.items()}


def hash_of(effective: object) -> str:
    """Return a hash of what `shown` returns: equal in all gateways with that file.

    It says nothing about the secrets, which could be guessed from a hash of them.
    """
    text = json.dumps(effective, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _services(table: RouteTable) -> list[dict[str, Any]]:
    services: dict[str, dict[str, Any]] = {}
    for route in table.routes:
        for one in route.services:
            service = services.setdefault(
                one.name,
                {
                    "name": one.name,
                    "targets": [str(target) for target in one.targets],
                    "routes": [],
                },
            )
            service["routes"].append(route.name)
    return list(services.values())


def _pack(part: object) -> str:
    text = json.dumps(part, indent=_INDENT)
    packed = b64encode(zlib.compress(text.encode())).decode()
    if len(packed) <= _MAX_PACKED:
        return packed
    return _pack({"error": "this configuration is too large to be shown"})


def unpack(packed: str) -> str:
    """Return the JSON text of a part.

    Raises:
        ValueError: `describe` hasn't made it.
    """
    try:
        return zlib.decompress(b64decode(packed)).decode()
    except zlib.error:
        raise ValueError("not a part of a description") from None


def joined(texts: Mapping[str, str]) -> str:
    """Return one JSON object of members that are JSON already."""
    members = ",\n".join(
        f"{json.dumps(name)}: {text.strip()}" for name, text in texts.items()
    )
    return f"{{\n{members}\n}}\n"
