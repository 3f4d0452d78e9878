"""Ending sessions at the core without the SDK: what each of its answers comes to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.dev.core import ThreadedCore
from gateway.dev.core.faults import Faults
from gateway.supertokens.core_sessions import CoreCallFailed, CoreSessions


def client(core: ThreadedCore, *hosts: str, key: str | None = None) -> CoreSessions:
    return CoreSessions(hosts or (core.url,), key, timeout_s=5.0)


async def test_the_next_host_is_asked(st_core: ThreadedCore) -> None:
    """A host that takes no connection is passed over; sessions that are gone are 0."""
    sessions = client(st_core, "http://127.0.0.1:1", st_core.url)
    assert await sessions.handles_of("nobody", None) == []
    assert await sessions.handles_of("nobody", "public") == []
    assert await sessions.remove(["none"]) == 0


FAULTS: dict[str, tuple[Callable[[Faults], None], str]] = {
    "disconnect": (lambda faults: faults.disconnect(), "can't be reached"),
    "error": (lambda faults: faults.error(500), "the core answered 500"),
    "key": (
        lambda faults: faults.error(401, text="Invalid API key"),
        "it refuses the API key",
    ),
    "HTML": (
        lambda faults: faults.garbage(body=b"<html>login</html>"),
        "the core's reply isn't one of a core",
    ),
    "another object": (
        lambda faults: faults.garbage("*/session/*", body=b'{"status": "OK"}'),
        "the core's reply isn't one of a core",
    ),
    "versions": (
        lambda faults: faults.garbage("*/apiversion", body=b'{"versions": ["1.0"]}'),
        "speaks no version",
    ),
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
async def test_any_other_answer_is_a_failure(
    st_core: ThreadedCore, fault: Callable[[Faults], None], reason: str
) -> None:
    """Nothing counts as done unless the core says so; the reason has no secret."""
    fault(st_core.core.faults)
    for call in (
        client(st_core, key="s3cr3t").handles_of("u", None),
        client(st_core, key="s3cr3t").remove(["h"]),
    ):
        with pytest.raises(CoreCallFailed, match=reason) as failed:
            await call
        assert "s3cr3t" not in str(failed.value)


async def test_a_tenant_that_is_not_there(st_core: ThreadedCore) -> None:
    """The core's answer is passed on in words."""
    with pytest.raises(CoreCallFailed, match="no such tenant"):
        await client(st_core).handles_of("u", "nowhere")


async def test_without_hosts_nothing_is_asked() -> None:
    """A `network_interceptor` changes calls: only the SDK could make them."""
    with pytest.raises(CoreCallFailed, match="network_interceptor"):
        await CoreSessions((), None, timeout_s=1.0).remove(["h"])
