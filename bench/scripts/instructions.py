"""Count the instructions of a request: `make bench-instructions`, for each load.

Unlike a time, a count doesn't depend on the load of the machine. One worker runs under
valgrind's callgrind, set up as in production (uvloop, the SDK, valid tokens). The core,
the upstream and the clients run outside of it. Counting begins after a warm-up; the
counter is then read and reset from outside, between requests. Instructions in the
kernel aren't counted.

Exits with 1 if a load costs 3 % more than in the committed result (--check), or if
something fails; with 2 if Python, valgrind or a wheel has another version than then,
since such figures can't be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig import client, interpreter
from bench.rig.loads import BY_NAME, LOADS, Crowd, Load, Session
from bench.rig.processes import LOAD_CORE, DidNotStart, PortInUse, worker_pids
from bench.rig.report import Table
from bench.rig.rivals import ONE_WORKER, PORTS, Rival, Stage, gateway_config
from bench.rig.stage import (
    ROOT,
    TOOLS,
    NotVerified,
    forwarding_to,
    say,
    started,
    tokens,
    with_core,
)

RESULT = Path(__file__).parents[1] / "results" / "instructions.json"
CONNECTIONS = 16
WORSE_PERCENT = 3
"""An increase of this much is a regression. Runs of the same code differ by < 1 %."""
_WARM = 320
"""Requests before the count: they fill caches, and Python specialises its code."""
_ROUNDS = 2
"""The number of counts in each process."""
_SETTLE_S = 0.3
"""How long after the last answer the worker may still work for it."""
_VGDB_S = 120.0
_HUB_S = 30.0
"""How long the hub may take to set its process name, under valgrind."""
_WHEELS = (
    "aiohttp",
    "cryptography",
    "multidict",
    "supertokens-python",
    "uvloop",
)

_ASK = f"""
import importlib.metadata, json, platform, sys
print(json.dumps({{
    "Python": sys.version,
    "machine": platform.machine(),
    "C library": " ".join(platform.libc_ver()),
    **{{name: importlib.metadata.version(name) for name in {_WHEELS!r}}},
}}))
"""


class NoCount(client.Failed):
    """callgrind reported no count of instructions."""


# --- pure: figures and comparison -------------------------------------------


def total(dump: str) -> int:
    """Return the instructions that a callgrind file counts.

    Raises:
        NoCount: it has no total, or counts something else first.
    Source: valgrind's manual, Callgrind Format Specification, `events` and `totals`.
    """
    events = re.search(r"^events: (\S+)", dump, re.MULTILINE)
    totals = re.search(r"^totals: (\d+)", dump, re.MULTILINE)
    if events is None or events[1] != "Ir" or totals is None:
        raise NoCount("callgrind wrote no total of instructions")
    return int(totals[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Instructions for each request of one load, once for each count."""

    counts: tuple[int, ...]

    @property
    def middle(self) -> int:
        return round(statistics.median(self.counts))

    @property
    def spread(self) -> float:
        """The range from minimum to maximum, as a share of the median."""
        return (max(self.counts) - min(self.counts)) / self.middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One load, then and now."""

    load: str
    before: int | None
    """None: the committed result doesn't have it."""
    now: int

    @property
    def is_worse(self) -> bool:
        return self.before is not None and self.now * 100 >= self.before * (
            100 + WORSE_PERCENT
        )

    def row(self) -> tuple[str, str, str, str]:
        if self.before is None:
            return self.load, "", f"{self.now:,}", "new"
        change = f"{self.now / self.before - 1:+.1%}"
        return (
            self.load,
            f"{self.before:,}",
            f"{self.now:,}",
            f"{change}, worse" if self.is_worse else change,
        )


def compare(before: Mapping[str, Any], now: Mapping[str, Figure]) -> list[Change]:
    """Return the comparison for each load that was counted now."""
    loads = before["loads"]
    return [
        Change(
            load=name,
            before=loads[name]["instructions"] if name in loads else None,
            now=figure.middle,
        )
        for name, figure in now.items()
    ]


def why_not(then: Mapping[str, Any] | None, now: Mapping[str, str]) -> list[str]:
    """Return why *then*, a committed result, can't be compared with versions *now*.

    With another interpreter or wheel, the gateway's code has another cost.
    """
    if then is None:
        return ["no result is committed"]
    was = then["made_with"]
    return [
        f"{name} was {was.get(name, 'not there')}, is {now.get(name, 'not there')}"
        for name in dict.fromkeys((*was, *now))
        if was.get(name) != now.get(name)
    ]


def to_json(
    figures: Mapping[str, Figure], *, made_with: Mapping[str, str], subject: str
) -> dict[str, Any]:
    """Return the result as plain values."""
    return {
        "commit": subject,
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        "connections": CONNECTIONS,
        "made_with": dict(made_with),
        "loads": {
            name: {
                "instructions": figure.middle,
                "spread_percent": round(100 * figure.spread, 2),
                "counts": list(figure.counts),
            }
            for name, figure in figures.items()
        },
    }


def table(figures: Mapping[str, Figure]) -> Table:
    """Return the figures for the page."""
    return Table(
        columns=("load", "instructions a request", "spread", "what is sent"),
        rows=[
            (name, f"{figure.middle:,}", f"{figure.spread:.2%}", BY_NAME[name].does)
            for name, figure in figures.items()
        ],
    )


# --- the worker under valgrind ----------------------------------------------


def _under_valgrind(load: Load) -> Rival:
    def command(stage: Stage, program: str) -> list[str]:
        config = gateway_config(
            stage,
            "gateway",
            cache_size=20000,
            trusted_proxies=("127.0.0.1/32",) if load.is_terminated else (),
        )
        return [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--instr-atstart=no",
            "--trace-children=yes",  # else vgdb can't reach a process that was forked
            f"--vgdb-prefix={stage.folder}/vgdb",
            f"--callgrind-out-file={_dump(stage, '%p')}",
            str(stage.python / "python"),
            program,
            *("serve", "-c", str(config)),
            *("--log-format", "json" if load.is_terminated else "none"),
        ]

    return Rival(
        name="gateway",
        does="one worker under callgrind",
        program="gateway",
        port=PORTS["gateway"],
        command=command,
        verifies=True,
        environ={**ONE_WORKER, "PYTHONHASHSEED": "0"},
    )


def _dump(stage: Stage, pid: int | str) -> Path:
    return stage.folder / f"callgrind.out.{pid}"


class _Counter:
    """Reads the counter of a process under callgrind."""

    def __init__(self, stage: Stage, pid: int) -> None:
        self._prefix = stage.folder / "vgdb"
        self._out = _dump(stage, pid)
        self._pid = pid
        self._dumps = 0

    def start(self) -> None:
        """Count from now on."""
        self._tell("instrumentation", "on")

    def read(self) -> int:
        """Return the count since the last call, and reset it to 0."""
        time.sleep(_SETTLE_S)
        self._tell("dump")
        self._dumps += 1
        dump = Path(f"{self._out}.{self._dumps}")
        if not dump.exists():
            raise NoCount("callgrind wrote nothing")
        counted = total(dump.read_text())
        dump.unlink()
        return counted

    def _tell(self, *words: str) -> None:
        """Send a command through vgdb, and wait until it is done."""
        command = ["vgdb", f"--vgdb-prefix={self._prefix}", f"--pid={self._pid}"]
        try:
            process = subprocess.run(
                [*command, *words],
                capture_output=True,
                text=True,
                timeout=_VGDB_S,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise NoCount(f"vgdb waited {_VGDB_S:g} s for valgrind") from exc
        if process.returncode:
            raise NoCount(f"vgdb failed: {process.stdout}{process.stderr}")


def count(load: Load, stage: Stage, session: Session, requests: int) -> list[int]:
    """Return the instructions for each request, once for each round.

    Raises:
        client.Failed: an answer was wrong, or there is no count.
        DidNotStart, PortInUse, NotVerified: as `stage.started`.
    """
    counts = []
    with started(_under_valgrind(load), stage) as (supervisor,):
        pid = _worker(supervisor)
        crowd = Crowd(load, session, port=PORTS["gateway"], connections=CONNECTIONS)
        with contextlib.closing(crowd):
            counter = _Counter(stage, pid)
            counter.start()
            crowd.send(_WARM)
            counter.read()
            for _ in range(_ROUNDS):
                crowd.send(requests)
                counts.append(round(counter.read() / requests))
    if load.is_terminated:
        _must_be_logged(stage, _WARM + _ROUNDS * requests)
    return counts


def _worker(supervisor: int) -> int:
    """Return the worker, which the supervisor forks under valgrind.

    Raises:
        NoCount: there isn't exactly one.
    """
    deadline = time.monotonic() + _HUB_S
    while len(workers := worker_pids(supervisor)) != 1:
        # The hub counts as a worker until it has set its process name.
        if time.monotonic() > deadline:
            raise NoCount(f"the supervisor has {len(workers)} workers instead of one")
        time.sleep(0.05)
    return workers.pop()


def _must_be_logged(stage: Stage, requests: int) -> None:
    """Check that the access log has each request.

    Raises:
        NoCount: lines are missing, so the measured cost would be too low.
    """
    log = (stage.folder / "gateway.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    right = [line for line in lines if line.get("status") == 200]
    if len(right) < requests:
        raise NoCount(f"the access log has {len(right)} of {requests} requests")


# --- the whole run ----------------------------------------------------------


def main() -> int:
    options = _arguments()
    # A signal that stops this process must stop its children, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _must_be_possible()
        return _run(options)
    except (PortInUse, NotVerified, DidNotStart, client.Failed) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="compare with the committed result"
    )
    what.add_argument(
        "--write",
        action="store_true",
        help=f"write {RESULT.relative_to(ROOT)}, for later runs to compare with",
    )
    parser.add_argument(
        "--only",
        type=_names,
        metavar="LOAD,LOAD",
        default=[*LOADS],
        help=f"some of {', '.join(BY_NAME)}",
    )
    parser.add_argument(
        "--requests",
        type=_positive,
        default=600,
        help="requests in each count (default: 600)",
    )
    parser.add_argument(
        "--runs",
        type=_positive,
        default=2,
        help=f"fresh processes for each load, each with {_ROUNDS} counts (default: 2)",
    )
    options = parser.parse_args()
    if options.write and len(options.only) < len(LOADS):
        parser.error("--write needs all loads: leave --only away")
    return options


def _names(text: str) -> list[Load]:
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in BY_NAME]:
        raise argparse.ArgumentTypeError(
            f"no load {', '.join(unknown)}: there are {', '.join(BY_NAME)}"
        )
    return [load for load in LOADS if load.name in wanted]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} isn't a positive number")
    return int(text)


def _must_be_possible() -> None:
    """Exit with a list of missing programs before anything is started.

    Raises:
        SystemExit: no valgrind.
    """
    if missing := [
        name for name in ("valgrind", "vgdb", "taskset") if not shutil.which(name)
    ]:
        raise SystemExit(
            f"missing: {', '.join(missing)} (Debian: apt install valgrind util-linux)"
        )


def _run(options: argparse.Namespace) -> int:
    python = interpreter.choose()
    say(f"the gateway runs on {python}")
    home = interpreter.environment(TOOLS / "python", python, ROOT)
    made_with = _made_with(home / "python")
    before = _committed() if options.check else None
    if options.check and (reasons := why_not(before, made_with)):
        print("not compared:", *reasons, sep="\n  ")
        print("--write makes a result to compare with")
        return 2
    os.sched_setaffinity(0, {LOAD_CORE})
    figures = _figures(options, python)
    if before is not None:
        return _checked(compare(before, figures))
    print("\n".join(table(figures).markdown()))
    if options.write:
        result = to_json(figures, made_with=made_with, subject=_subject())
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {RESULT.relative_to(ROOT)}")
    return 0


def _figures(
    options: argparse.Namespace, python: interpreter.Interpreter
) -> dict[str, Figure]:
    """Return the figure of each load. In each round, all loads are counted once."""
    counts: dict[str, list[int]] = {load.name: [] for load in options.only}
    with tempfile.TemporaryDirectory() as name, with_core(Path(name), python) as stage:
        new = _WARM + _ROUNDS * options.requests
        session = Session(
            user=stage.user,
            token=stage.token,
            new=(
                asyncio.run(tokens(stage.user, new))
                if any(load.takes_tokens for load in options.only)
                else ()
            ),
        )
        for number in range(options.runs):
            for load in options.only:
                say(f"run {number + 1} of {options.runs}: {load.name}")
                with _upstream(load, stage) as onto:
                    found = count(load, onto, session, options.requests)
                say("  " + ", ".join(f"{one:,}" for one in found))
                counts[load.name] += found
    return {name: Figure(counts=tuple(found)) for name, found in counts.items()}


def _upstream(load: Load, stage: Stage) -> contextlib.AbstractContextManager[Stage]:
    return forwarding_to(
        "echo_upstream" if load.ask is None else "mirror_upstream", stage
    )


def _checked(changes: Sequence[Change]) -> int:
    """Print the comparison for each load; return 1 if one costs more."""
    in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for row, is_worse in (
        (("load", "before", "now", "change"), False),
        *((change.row(), change.is_worse) for change in changes),
    ):
        name, before, now, change = row
        line = f"{name:10} {before:>10} {now:>10} {change:>14}"
        print(f"\033[31m{line}\033[0m" if is_worse and in_colour else line)
    worse = [change.load for change in changes if change.is_worse]
    if worse:
        print(f"{WORSE_PERCENT} % or more above the committed result:", *worse)
    return int(bool(worse))


def _made_with(python: Path) -> dict[str, str]:
    """Return the versions that the figures depend on besides our code."""
    process = subprocess.run([python, "-c", _ASK], capture_output=True, check=True)
    valgrind = subprocess.run(
        ["valgrind", "--version"], capture_output=True, text=True, check=True
    )
    # libc and OpenSSL choose their code by the features of the processor.
    flags = Path("/proc/cpuinfo").read_text().partition("\nflags")[2].split("\n")[0]
    vector = "AVX2" if "avx2" in flags.split() else "no AVX2"
    return {
        **json.loads(process.stdout),
        "vector unit": vector,
        "valgrind": valgrind.stdout.strip().removeprefix("valgrind-"),
    }


def _committed() -> dict[str, Any] | None:
    """Return the committed result, None when there is none."""
    process = subprocess.run(
        ["git", "show", f"HEAD:{RESULT.relative_to(ROOT)}"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    return None if process.returncode else dict(json.loads(process.stdout))


def _subject() -> str:
    """Return the subject of the commit; unlike its hash, it survives a rebase."""

    def git(*words: str) -> str:
        process = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return process.stdout.strip()

    changed = git("status", "--porcelain", "--", "gateway", "pyproject.toml")
    subject = git("log", "-1", "--format=%s") or "unknown"
    return f"{subject} (changed since)" if changed else subject


if __name__ == "__main__":
    sys.exit(main())
