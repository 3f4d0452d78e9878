"""Run the comparison: `python -m bench`, `python -m bench --part bodies idle`.

Results go to bench/results/<date>-<revision>.md and .json. --quick measures only the
gateway and nginx, and compares them with the last committed result: it exits with 1 if
the cost of a request, as a multiple of nginx's in the same run, has grown by more than
15 %; with 2 if there is no such result, or nginx was another build.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.parts import (
    bodies,
    growth,
    idle,
    latency,
    requests,
    routes,
    scaling,
    sockets,
)
from bench.rig import (
    builds,
    client,
    goals,
    interpreter,
    plot,
    report,
)
from bench.rig.processes import CORES, LOAD_CORE, DidNotStart, PortInUse, machine
from bench.rig.rivals import BY_NAME, Stage
from bench.rig.stage import ROOT, TOOLS, NotVerified, install, opened, say
from bench.scripts import startup
from bench.scripts.instructions import RESULT

_RESULTS = Path(__file__).parent / "results"
_DESCRIPTORS = 65_536
"""The limit of open files to set, if the system allows it."""
_QUICK = ("nginx", "gateway", "gateway_no_cache")


def main() -> int:
    options = _arguments()
    if options.plot:
        return _redraw(options.plot)
    # A signal that stops this process must stop its children, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _must_be_possible()
        install()
        before_quick = _last_committed() if options.quick else None
        if options.quick and (reason := _why_not(before_quick)):
            print(
                f"not compared: {reason}. Remedy: make bench, and commit its result",
                file=sys.stderr,
            )
            return 2
        python = interpreter.choose()
        say(f"the gateway runs on {python}")
        if not python.is_optimised:
            say("BENCH_PYTHON=… names a Python built with --enable-optimizations")
        os.sched_setaffinity(0, {LOAD_CORE})
        before = machine()
        with tempfile.TemporaryDirectory() as name:
            parts, head = _measure(Path(name), python, options)
        after = machine()
        head["wall"] = (
            f"The run took {(after.at_s - before.at_s) / 60:.0f} min;"
            f" {after.meanwhile(before)}"
        )
    except (PortInUse, NotVerified, DidNotStart, client.Failed) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    targets = goals.in_order(
        (target for part in parts.values() for target in part.targets),
        may_judge_nginx=not head["is_nginx_slow"],
    )
    stem = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}-{head['revision']}"
    picture = _picture({name: part.samples for name, part in parts.items()})
    name = f"{stem}.svg" if picture and options.out else ""
    page = report.page(head, parts, targets, name)
    print(page)
    wrong = _wrong(parts)
    if options.quick and before_quick is not None:
        return max(wrong, _compare(before_quick, parts))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        whole = json.dumps(report.to_json(head, parts), indent=1)
        (options.out / f"{stem}.json").write_text(whole + "\n")
        (options.out / f"{stem}.md").write_text(page)
        if name and picture:
            (options.out / name).write_text(picture)
        print(f"written to {options.out}: {stem}.md, .json{', .svg' * bool(name)}")
    return wrong


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--short", action="store_true", help="two rounds of 1 s, as a trial"
    )
    parser.add_argument(
        "--rounds", type=_positive, help="rounds of each part (default: 5; bodies 3)"
    )
    parser.add_argument(
        "--seconds", type=_positive, help="length of one run (default: 2; growth 1)"
    )
    parser.add_argument("--part", nargs="+", choices=[*_PARTS], help="default: all")
    parser.add_argument("--only", nargs="+", choices=[*BY_NAME], help="rivals")
    parser.add_argument(
        "--load", nargs="+", choices=[*requests.TITLES], help="loads of requests"
    )
    parser.add_argument(
        "--mib", type=_positive, help="large body's size (default: 1024)"
    )
    parser.add_argument(
        "--connections", type=_positive, default=10_000, help="idle connections"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for the result, also of a short run or of a part"
        " (default: bench/results, and only whole runs)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="compare with the last committed result"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="RESULT.json",
        help="only redraw the plot of a result",
    )
    options = parser.parse_args()
    if options.quick:
        options.part, options.only = ["requests"], list(_QUICK)
        options.load = ["same", "new_token", "public"]
        options.rounds, options.seconds = 5, 2
    # Partial runs aren't results to compare with later.
    is_whole = not (options.part or options.only or options.load or options.short)
    options.out = options.out or (_RESULTS if is_whole else None)
    options.rounds = options.rounds or (2 if options.short else None)
    options.seconds = options.seconds or (1 if options.short else 2)
    options.mib = options.mib or (256 if options.short else 1024)
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} isn't a positive number")
    return int(text)


def _must_be_possible() -> None:
    """Exit with a list of missing programs before anything is started.

    Raises:
        SystemExit: one core only, or no wrk.
    """
    if len(CORES) < 2:
        raise SystemExit("two cores are needed: one for the proxy, one for the load")
    if missing := [name for name in ("wrk", "taskset") if not shutil.which(name)]:
        raise SystemExit(f"missing: {', '.join(missing)} (Debian: apt install wrk)")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No more than needed: some proxies allocate a table of this size.
    soft_limit = (
        _DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _DESCRIPTORS)
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, most))


# --- the parts --------------------------------------------------------------


def _of_rounds(options: argparse.Namespace, usual: int) -> int:
    return options.rounds or usual


_PARTS: dict[str, Callable[[Stage, argparse.Namespace], report.Part]] = {
    "requests": lambda stage, options: requests.measure(
        stage,
        rounds=_of_rounds(options, 5),
        seconds=options.seconds,
        only=options.only or (),
        only_loads=options.load or (),
    ),
    "bodies": lambda stage, options: bodies.measure(
        stage, rounds=_of_rounds(options, 3), mib=options.mib
    ),
    "idle": lambda stage, options: idle.measure(stage, connections=options.connections),
    "routes": lambda stage, _: routes.measure(stage.python / "python"),
    "latency": lambda stage, options: latency.measure(
        stage, rounds=_of_rounds(options, 5), seconds=options.seconds
    ),
    "workers": lambda stage, options: scaling.measure(
        stage, rounds=_of_rounds(options, 5), seconds=options.seconds
    ),
    "sockets": lambda stage, options: sockets.measure(
        stage, rounds=_of_rounds(options, 5), seconds=options.seconds
    ),
    "growth": lambda stage, options: growth.measure(
        stage, rounds=_of_rounds(options, 5), seconds=options.seconds / 2
    ),
    "startup": lambda stage, _: startup.part(stage.python / "python", 9),
    "instructions": lambda _, __: goals.counted(json.loads(RESULT.read_text())),
}


def _measure(
    folder: Path, python: interpreter.Interpreter, options: argparse.Namespace
) -> tuple[dict[str, report.Part], dict[str, Any]]:
    parts, others = {}, {}
    with opened(folder, python) as stage:
        for name in options.part or _PARTS:
            say(f"{name} …")
            before = machine()
            parts[name] = _PARTS[name](stage, options)
            others[name] = machine().others(before)
        made = builds.describe(TOOLS)
        head: dict[str, Any] = {
            "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
            "revision": _revision(),
            "machine": f"{platform.system()} {platform.machine()},"
            f" {os.cpu_count()} CPUs",
            "python": f"The gateway (and FastAPI) on {python}",
            "builds": {name: asdict(build) for name, build in made.items()},
            "notes": builds.notes(made),
            "is_nginx_slow": builds.is_handicapped(made),
            "others": others,
        }
    return parts, head


def _picture(samples: Mapping[str, report.Samples]) -> str | None:
    """Return the plot of a run, or None if the run lacks the figures for it."""
    chart = requests.chart(samples.get("requests", {}), samples.get("sockets", {}))
    return plot.svg(chart) if chart else None


def _redraw(path: Path) -> int:
    """Redraw the plot of a result, in the same folder."""
    try:
        parts = json.loads(path.read_text())["parts"]
        picture = _picture({name: part["samples"] for name, part in parts.items()})
    except (OSError, ValueError, LookupError, TypeError) as exc:
        print(f"error: {path} isn't a result of this program: {exc!r}", file=sys.stderr)
        return 1
    if picture is None:
        print(f"error: {path} has no figures for a plot", file=sys.stderr)
        return 1
    path.with_suffix(".svg").write_text(picture)
    print(f"written to {path.with_suffix('.svg')}")
    return 0


def _revision() -> str:
    process = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return process.stdout.strip() or "unknown"


def _wrong(parts: dict[str, report.Part]) -> int:
    """Return 1 if the gateway gave a wrong answer or none: the run isn't valid."""
    lines = [
        f"{name}: {samples}"
        for part in parts.values()
        for name, samples in part.samples.items()
        if name.startswith("gateway")
        and any(one.get("wrong") or one.get("errors") for one in samples)
    ]
    lines += [
        note
        for part in parts.values()
        for note in part.notes
        if note.startswith("gateway")
    ]
    for line in lines:
        print(f"error: wrong answers or none: {line}", file=sys.stderr)
    return int(bool(lines))


def _last_committed() -> Mapping[str, Any] | None:
    """Return the committed result that --quick compares with."""
    known = subprocess.run(
        ["git", "ls-files", "-z", "--", "*.json"],
        cwd=_RESULTS,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [_RESULTS / name for name in known.stdout.split("\0") if name]
    reports = [json.loads(path.read_text()) for path in paths if path.exists()]
    return report.latest(reports)


def _why_not(before: Mapping[str, Any] | None) -> str:
    """Return the reasons why results can't be compared; call it before measuring."""
    if before is None:
        return "there is no committed result"
    made = builds.describe(TOOLS)
    now = {"builds": {name: asdict(build) for name, build in made.items()}}
    return report.why_not(before, now)


def _compare(before: Mapping[str, Any], parts: dict[str, report.Part]) -> int:
    """Compare with a committed result; return 1 when a request costs more."""
    print(f"then: {before['revision']}, {before['date']}. {before['python']}")
    changes = report.compare(
        before["parts"]["requests"]["samples"],
        parts["requests"].samples,
        [name for name in _QUICK if name != "nginx"],
    )
    for line in changes:
        print(line)
    return int(any(line.is_worse for line in changes))


if __name__ == "__main__":
    sys.exit(main())
