"""What the shared store's commands cost a Redis server, for `bench.scripts.fleet`."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from bench.rig.innocent import free_port
from gateway.session.deny_list import MAX_DENY_S, MAX_SESSIONS
from gateway.shared.entries import SharedDenials, SharedEntry, fields

_ENTRIES: Final = 20_000
_ROUNDS: Final = 5_000
_KEY: Final = "denials"


def measured() -> dict[str, float]:
    """Start a Redis server; return the costs, as `bench.scripts.fleet.COSTS` has them.

    A read may wait, but finds one entry at once. One client asks, one call after the
    other, so the CPU contains system calls for each, as it does with few sign-outs.
    """
    from redis import Redis

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [
                *("redis-server", "--bind", "127.0.0.1", "--port", str(port)),
                *("--save", "", "--appendonly", "no", "--dir", folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            with Redis(port=port, protocol=2) as client:
                _until_there(client)
                return _costs(client)
        finally:
            server.kill()
            server.wait()


def _until_there(client: Any) -> None:
    from redis import ConnectionError as NotThere

    end = time.monotonic() + 30
    while True:
        try:
            client.ping()
        except NotThere:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def _costs(client: Any) -> dict[str, float]:
    gateway = secrets.token_hex(8)

    def write() -> None:
        denials = SharedDenials({str(uuid.uuid4()): time.time() + 3_600})
        with client.pipeline(transaction=False) as pipe:
            entry: Any = fields(SharedEntry(gateway, denials))
            pipe.xadd(_KEY, entry, maxlen=MAX_SESSIONS, approximate=True)
            pipe.pexpire(_KEY, int(MAX_DENY_S * 1000))
            pipe.execute()

    write_cpu, write_bytes = _cost(client, write, _ENTRIES)
    memory = float(client.memory_usage(_KEY, samples=0)) / _ENTRIES
    first, second = (one for one, _ in client.xrange(_KEY, count=2))
    before_last = client.xrevrange(_KEY, count=2)[1][0]

    def read() -> None:
        client.xread({_KEY: before_last}, 200, 1_000)

    def check() -> None:
        client.xrevrange(_KEY, count=1)
        client.xrange(_KEY, second, second)
        client.xtrim(_KEY, minid=first, approximate=True)

    read_cpu, read_bytes = _cost(client, read, _ROUNDS)
    check_cpu, check_bytes = _cost(client, check, _ROUNDS)
    return {
        "entry_memory": memory,
        "read_cpu": read_cpu,
        "read_bytes": read_bytes,
        "check_cpu": check_cpu,
        "check_bytes": check_bytes,
        "write_cpu": write_cpu,
        "write_bytes": write_bytes,
    }


def _cost(client: Any, call: Callable[[], None], times: int) -> tuple[float, float]:
    """Return CPU in µs and bytes of a call, as the server counts them."""
    before = client.info()
    for _ in range(times):
        call()
    after = client.info()

    def grown(*names: str) -> float:
        return sum(float(after[name]) - float(before[name]) for name in names) / times

    used_s = grown("used_cpu_user", "used_cpu_sys")
    return used_s * 1e6, grown("total_net_input_bytes", "total_net_output_bytes")
