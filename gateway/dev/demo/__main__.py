"""edge. `python -m gateway.dev.demo`: the demo services alone, as in `compose.yaml`.

`make dev` runs them beside the embedded core instead (see `gateway.dev.services`).
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import sys
from collections.abc import Sequence

from gateway.dev.demo.server import demo_services
from gateway.dev.ports import LOOPBACK, BadPort, PortInUse, Ports


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.dev.demo",
        description="Run the demo services catalog, orders, whoami and page. "
        "Their ports are in CATALOG_PORT, ORDERS_PORT, WHOAMI_PORT and PAGE_PORT.",
    )
    parser.add_argument("--host", default=LOOPBACK, help="IP address to listen on")
    parser.add_argument(
        "--unsafe-bind",
        action="store_true",
        help="allow an address that isn't loopback: anyone who reaches these services "
        "can be any user, by sending X-User-Id",
    )
    options = parser.parse_args(arguments)
    try:
        loopback = ipaddress.ip_address(options.host).is_loopback
    except ValueError:
        parser.error(f"--host must be an IP address, not {options.host!r}")
    if not (loopback or options.unsafe_bind):
        parser.error(f"{options.host} isn't loopback; add --unsafe-bind to allow it")
    try:
        asyncio.run(_serve(options.host, Ports.of(os.environ)))
    except (BadPort, PortInUse) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


async def _serve(host: str, ports: Ports) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with demo_services(ports, core=None, host=host):
        print(f"demo services listen on {host}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
