"""The tests of TLS run on uvloop, like the gateway itself; others on asyncio's loop.

Its transports are those that the gateway's own TLS transport is above.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

UVLOOP = ("test_tls_transport.py", "test_proxy_preface.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
