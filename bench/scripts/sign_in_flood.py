"""Floods of sign-ins against rate limits: `make sign-in-flood`, figures and goals.

One address tries many accounts; then many addresses try one account. The addresses are
in X-Forwarded-For, from a trusted proxy on loopback. Meanwhile other users sign in,
each from an address of its own. Everything happens without limits first, and then with
the ready-made ones. The embedded core hashes passwords at the real one's cost. How far
it is, and how long it still takes, is on standard error. Exits with 1 if a goal is
missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp

from bench.rig.core_stage import (
    PASSWORD,
    Clients,
    Report,
    Seen,
    clients,
    staged,
)
from bench.rig.progress import Progress

_ROUTES = """version: 1
gateway: {{listen: "127.0.0.1:{port}", trusted_proxies: [127.0.0.1]}}
supertokens:
  connection_uri: http://127.0.0.1:{core}
LIMITS
services:
  up: {{targets: ["http://127.0.0.1:{upstream}"]}}
routes:
  - {{path: /checked, service: up, session: {{check_database: always}}}}
"""
_LIMITS = "  rate_limits: {{sign_in: [sign-in, sign-in-account]}}"
_INNOCENT = 10
_INNOCENT_EVERY_S = 0.2
"""At most so often, and no more often than the core can check two passwords in turn:
else the innocent alone are too much for it."""
_AT_ONCE = 50
_FIRST_ADDRESS = IPv4Address("10.0.0.0")
_MAX = 2**24
"""As many addresses begin with 10."""
_PER_ADDRESS = 20
_PER_ACCOUNT = 10
"""Of the ready-made limits: the burst, and what comes back in a minute."""

Attempts = Iterator[tuple[str, str, str]]
"""Address, mail address and password."""


async def _sign_in(
    here: Clients, seen: Seen, address: str, email: str, password: str
) -> None:
    form = [{"id": "email", "value": email}, {"id": "password", "value": password}]
    began = time.perf_counter()
    try:
        reply = await here.send(
            "POST",
            "/auth/signin",
            headers={"X-Forwarded-For": address},
            json={"formFields": form},
        )
    except (aiohttp.ClientError, TimeoutError) as error:
        seen.statuses[type(error).__name__] += 1
        return
    seen.ms.append((time.perf_counter() - began) * 1000)
    is_in = b'"status":"OK"' in reply.body
    refused = " refused by the core" if reply.status == 200 and not is_in else ""
    seen.statuses[f"{reply.status}{refused}"] += 1


async def _flood(
    here: Clients, attempts: Attempts, count: int, every_s: float
) -> tuple[Seen, Seen, float]:
    """Send *count* attempts, and an innocent sign-in every *every_s*.

    Returns what the attack and the innocent have seen, and the seconds it took.
    """
    attack, innocent = Seen(), Seen()
    progress = Progress(count, "attempts")

    async def attacker() -> None:
        for address, email, password in attempts:
            await _sign_in(here, attack, address, email, password)
            progress.note(attack.statuses.total())

    began = time.perf_counter()
    attacking = [asyncio.create_task(attacker()) for _ in range(_AT_ONCE)]
    tasks = []
    number = 0
    while number < _INNOCENT or not all(task.done() for task in attacking):
        user = number % _INNOCENT
        # A user's own address changes, so that its own limits don't matter here.
        address = f"192.0.2.{user}" if number < _INNOCENT else f"2001:db8:{number:x}::1"
        if number < _INNOCENT * _PER_ACCOUNT:
            tasks.append(
                asyncio.create_task(
                    _sign_in(here, innocent, address, _mail(user), PASSWORD)
                )
            )
        number += 1
        await asyncio.sleep(every_s)
    took_s = time.perf_counter() - began
    await asyncio.gather(*attacking, *tasks)
    return attack, innocent, took_s


def _mail(user: int) -> str:
    return f"innocent-{user}@example.com"


def floods(accounts: int, addresses: int) -> Iterator[tuple[str, Attempts, int, int]]:
    """Yield the title of each flood, its attempts, their number, and how many of them
    a limit lets through at once."""
    yield (
        f"one address against {accounts:,} accounts",
        (
            ("198.51.100.1", f"account-{each}@example.com", "wrong-horse-1")
            for each in range(accounts)
        ),
        accounts,
        _PER_ADDRESS,
    )
    yield (
        f"{addresses:,} addresses against one account",
        (
            (str(_FIRST_ADDRESS + each), "victim@example.com", f"wrong-{each}")
            for each in range(addresses)
        ),
        addresses,
        _PER_ACCOUNT,
    )


async def _measure(
    here: Clients, report: Report, options: argparse.Namespace, *, has_limits: bool
) -> None:
    began = time.perf_counter()
    for user in range(_INNOCENT):
        await here.sign(Seen(), "signup", _mail(user), PASSWORD)
    hash_s = (time.perf_counter() - began) / _INNOCENT
    every_s = max(_INNOCENT_EVERY_S, 2 * hash_s)
    await here.sign(Seen(), "signup", "victim@example.com", PASSWORD)
    if not has_limits:
        # No password is checked for an account that doesn't exist.
        print(
            f"  a password takes the core {hash_s * 1000:.0f} ms: without limits,"
            f" {options.addresses:,} addresses take {options.addresses * hash_s:.0f} s"
            " at most; with limits, all takes seconds",
            file=sys.stderr,
            flush=True,
        )
    for title, flood, count, burst in floods(options.accounts, options.addresses):
        attack, innocent, took_s = await _flood(here, flood, count, every_s)
        how = "with limits" if has_limits else "without limits"
        print(f"\n## {title}, {how}: {took_s:.1f} s\n")
        report.figure(f"attack: {attack.words()}")
        report.figure(f"innocent sign-ins, every {every_s:.1f} s: {innocent.words()}")
        if has_limits:
            report.goal("every innocent sign-in succeeds", reached=innocent.only("200"))
            reached = sum(
                count for what, count in attack.statuses.items() if what != "429"
            )
            allowed = burst * (1 + took_s / 60)
            report.figure(f"attempts that reached the core: {reached}")
            report.goal(
                f"at most {allowed:.0f} attempts pass", reached=reached <= allowed
            )


async def _run(options: argparse.Namespace, report: Report) -> None:
    for has_limits in (False, True):
        routes = _ROUTES.replace("LIMITS", _LIMITS if has_limits else "")
        with (
            tempfile.TemporaryDirectory() as folder,
            staged(
                Path(folder), workers=options.workers, tree=None, routes=routes
            ) as stage,
        ):
            async with clients(stage) as here:
                await _measure(here, report, options, has_limits=has_limits)


def count_of(text: str) -> int:
    """Return the number of accounts or addresses in *text*.

    Raises:
        argparse.ArgumentTypeError: it is out of range.
    """
    number = int(text)
    if not 1 <= number <= _MAX:
        raise argparse.ArgumentTypeError(f"1 to {_MAX:,}")
    return number


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.sign_in_flood", description=__doc__
    )
    parser.add_argument(
        "--accounts", type=count_of, default=1000, help="tried by one address; 1000"
    )
    parser.add_argument(
        "--addresses", type=count_of, default=1000, help="that try one account; 1000"
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    report = Report()
    print("# Floods of sign-ins")
    asyncio.run(_run(options, report))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
