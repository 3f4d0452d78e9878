"""edge. All demo services together, each on its own port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.dev.demo.admin import Core
from gateway.dev.demo.catalog import catalog
from gateway.dev.demo.orders import orders
from gateway.dev.demo.page import page
from gateway.dev.demo.whoami import whoami
from gateway.dev.listening import listening
from gateway.dev.ports import LOOPBACK, Ports


@asynccontextmanager
async def demo_services(
    ports: Ports, *, core: Core | None, host: str = LOOPBACK
) -> AsyncIterator[None]:
    """Run the four services while the block runs.

    Raises:
        PortInUse: the port of a service is in use. The others have been stopped.
    """
    async with AsyncExitStack() as stack:
        for name, app, port in (
            ("catalog", catalog(), ports.catalog),
            ("orders", orders(), ports.orders),
            ("whoami", whoami(), ports.whoami),
            ("page", page(core), ports.page),
        ):
            await stack.enter_async_context(listening(name, app, port, host))
        yield
