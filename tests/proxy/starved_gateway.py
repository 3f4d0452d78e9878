"""A gateway with 64 file descriptors, in a process of its own.

    python starved_gateway.py http://127.0.0.1:8080

Prints its port. Ends at the end of its standard input, and prints a summary as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from gateway_under_test import gateway


async def main(upstream: str) -> None:
    """Serve until standard input ends."""
    async with gateway(upstream, log_expected=True) as gw:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        print(gw.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        records = [gw.records.get_nowait() for _ in range(gw.records.qsize())]
        statuses = Counter(record.status for record in records)
        print(json.dumps({"log": len(gw.log.lines), "statuses": statuses}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
