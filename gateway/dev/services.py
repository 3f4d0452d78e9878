"""edge. Development only: the child process of `make dev`, with the core and the demos.

It is separate from the gateway so that neither slows the other down in measurements.
Two pipes connect it to its parent: it writes one line of JSON to stdout (that it is
ready, or why it failed), and it stops when its stdin ends, even if its parent is
killed.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from gateway.dev.core import BadSettings, CoreSettings, StoreError
from gateway.dev.core import serve as serve_core
from gateway.dev.demo.admin import Core
from gateway.dev.demo.server import demo_services
from gateway.dev.ports import PortInUse, Ports


async def serve(settings: Mapping[str, Any], parent: TextIO) -> None:
    """Run the core and the demo services until stdin ends; report to *parent*.

    *settings* are the keyword arguments for `CoreSettings`.
    """
    ports = Ports.of(os.environ)
    try:
        async with (
            serve_core(CoreSettings(**settings), port=ports.core) as core,
            demo_services(ports, core=Core(uri=core.url)),
        ):
            _report(parent, ready=True)
            # A thread, because stdin may be any kind of file.
            await asyncio.to_thread(sys.stdin.buffer.read)
    except (BadSettings, PortInUse, StoreError) as exc:
        _report(parent, failed=str(exc))
    except OSError as exc:
        # Of the core's socket; the demo services raise PortInUse.
        if exc.errno != errno.EADDRINUSE:
            raise
        _report(parent, failed=str(PortInUse("core", ports.core)))


def _report(parent: TextIO, **line: object) -> None:
    print(json.dumps(line), file=parent, flush=True)


if __name__ == "__main__":
    # Other output must not mix with the line for the parent.
    parent, sys.stdout = sys.stdout, sys.stderr
    database, settings = sys.argv[1:]
    asyncio.run(serve({"database": Path(database), **json.loads(settings)}, parent))
