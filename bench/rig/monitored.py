"""The gateway as `gateway serve` runs it, with a monitor of its event loop.

`python -m bench.rig.monitored routes.yaml`. It prints `ready`. For each line on its
standard input it then prints the loop's longest stall since the previous line, in
milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import uvloop

from gateway import settings
from gateway.process import serve

_TICK_S = 0.002


class _Watch:
    """Measures the longest stall of the loop: the latest wake-up of a sleeping task."""

    worst_s = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await asyncio.sleep(_TICK_S)
            self.worst_s = max(self.worst_s, loop.time() - begun - _TICK_S)

    def answer(self) -> None:
        """Print the longest stall for each input line; runs in a separate thread."""
        for _ in sys.stdin:
            worst_s, self.worst_s = self.worst_s, 0.0
            print(worst_s * 1000, flush=True)


async def main() -> None:
    loaded = settings.load(Path(sys.argv[1]), os.environ)
    watch = _Watch()
    threading.Thread(target=watch.answer, daemon=True).start()
    watching = asyncio.create_task(watch.run())
    try:
        await serve.run(
            loaded,
            log_format="none",
            listen=None,
            on_ready=lambda _url: print("ready", flush=True),
        )
    finally:
        watching.cancel()


if __name__ == "__main__":
    uvloop.run(main())
