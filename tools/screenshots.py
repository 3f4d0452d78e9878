"""Takes the screenshots of the demo page in docs/images (`make screenshots`).

It runs `gateway dev` on free ports, with new users in a folder for temporary files.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

from browser.__main__ import HERE, browser
from processes import command

from gateway.dev.ports import LOOPBACK, Ports, variable

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def free_ports() -> dict[str, str]:
    """Return the variables of all ports of `gateway dev`, set to free ones."""
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name, _ in Ports()}
        for probe in sockets.values():
            probe.bind((LOOPBACK, 0))
        return {
            variable(name): str(probe.getsockname()[1])
            for name, probe in sockets.items()
        }


async def main() -> int:
    """Take the screenshots; return 0 if that worked."""
    ports = free_ports()
    with tempfile.TemporaryDirectory() as folder:
        async with command(
            *("dev", "-c", ROOT / "config" / "routes.yaml", "--log-format", "none"),
            cwd=Path(folder),
            environ=ports,
        ) as running:
            await running.until_said(rb"Ctrl-C stops all of it")
            IMAGES.mkdir(exist_ok=True)
            node = await asyncio.create_subprocess_exec(
                *("node", HERE / "screenshots.mjs"),
                *(f"http://localhost:{ports['GATEWAY_PORT']}/", browser(), IMAGES),
            )
            return await node.wait()


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
