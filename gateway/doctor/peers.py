"""edge. Connections to see whether a peer can be reached: name, address, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from gateway.doctor.judgments import PeerFacts, Step
from gateway.doctor.threads import in_thread

_CLOSE_S: Final = 1.0
"""How long a peer may take to end a connection. Then it is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """Where to connect, and how its certificate is verified."""

    host: str = ""
    """A name or an IP address, without brackets; empty for a Unix socket."""
    port: int = 0
    socket_path: str = ""
    context: ssl.SSLContext | None = None
    """None: no TLS."""
    server_name: str | None = None
    """In the certificate; None: *host*."""


class _Attempt:
    """How far an attempt has come."""

    def __init__(self) -> None:
        self.step = Step.NAME
        self.addresses: tuple[str, ...] = ()
        self.writer: asyncio.StreamWriter | None = None


async def connect(peer: PeerAddress, *, timeout_s: float) -> PeerFacts:
    """Return what came of one connection to *peer*, closed again at once."""
    attempt = _Attempt()
    days_left = None
    try:
        async with asyncio.timeout(timeout_s):
            days_left = await _try(peer, attempt, timeout_s)
    except TimeoutError:
        return _failed(attempt, f"no answer within {timeout_s:g} s")
    except ssl.SSLCertVerificationError as error:
        return _failed(attempt, error.verify_message)
    except ssl.SSLError as error:
        return _failed(attempt, error.reason or "not TLS")
    except OSError as error:
        return _failed(attempt, _reason(error))
    except UnicodeError:
        return _failed(attempt, "it isn't a name")
    finally:
        await _close(attempt.writer)
    return PeerFacts(addresses=attempt.addresses, days_left=days_left)


async def _close(writer: asyncio.StreamWriter | None) -> None:
    """Close as clients do: peers log a reset during the handshake as an error."""
    if writer is None:
        return
    writer.close()
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_CLOSE_S):
            await writer.wait_closed()
    writer.transport.abort()


def _failed(attempt: _Attempt, why: str) -> PeerFacts:
    return PeerFacts(addresses=attempt.addresses, failed=attempt.step, why=why)


def _reason(error: OSError) -> str:
    """Return the system's words; asyncio's have the address, which is known."""
    if isinstance(error, socket.gaierror):
        return error.strerror or "unknown name"
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or "closed"


async def _try(peer: PeerAddress, attempt: _Attempt, timeout_s: float) -> float | None:
    """Connect, and return the days left of the certificate, if it was verified."""
    if peer.socket_path:
        attempt.step = Step.CONNECT
        _, attempt.writer = await asyncio.open_unix_connection(peer.socket_path)
        return None
    found = await in_thread(
        lambda: socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    )
    attempt.addresses = tuple(dict.fromkeys(str(each[4][0]) for each in found))
    attempt.step = Step.CONNECT
    writer = await _connect_one_of(attempt.addresses, peer.port, timeout_s)
    attempt.writer = writer
    if peer.context is None:
        return None
    attempt.step = Step.TLS
    await writer.start_tls(peer.context, server_hostname=peer.server_name or peer.host)
    ends = (writer.get_extra_info("peercert") or {}).get("notAfter")
    if ends is None:
        return None
    return (ssl.cert_time_to_seconds(ends) - time.time()) / 86400


async def _connect_one_of(
    addresses: tuple[str, ...], port: int, timeout_s: float
) -> asyncio.StreamWriter:
    """Connect to the first of *addresses* that answers, as `upstream.dial` does."""
    failure: OSError | None = None
    for address in addresses:
        # Each has its share, so that one that drops all packets hides no other one.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s * 0.9 / len(addresses)):
                try:
                    _, writer = await asyncio.open_connection(address, port)
                except TimeoutError:
                    raise
                except OSError as error:
                    failure = error
                else:
                    return writer
    raise failure or TimeoutError
