"""P9: the time of a route match by the number of routes (`make bench-routes`)."""

from __future__ import annotations

import json
import subprocess
import sys
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.rig import goals
from bench.rig.report import Part, Table
from gateway import config, routes

_SIZES = (10, 1_000, 10_000)
_ASKED = {
    "exact": "/area7/thing7/list",
    "prefix": "/area7/thing7/a/b/c",
    "template": "/area7/thing7/42/items",
    # A public route takes all other paths, so near misses must be looked for. The
    # first path can't be one; the second is looked up a second time.
    "beside guards, plain": "/elsewhere/42/items",
    "beside guards, not plain": "/Elsewhere/42/items/",
}
_BESIDE_GUARDS = [name for name in _ASKED if name.startswith("beside guards")]


def _compiled(size: int, kind: str) -> routes.RouteTable:
    paths: dict[str, Callable[[int], dict[str, str]]] = {
        "exact": lambda n: {"exact": f"/area{n % 100}/thing{n}/list"},
        "prefix": lambda n: {"prefix": f"/area{n % 100}/thing{n}"},
        "template": lambda n: {"template": f"/area{n % 100}/thing{n}/{{id}}/items"},
    }
    rest = [{"path": "/", "upstream": "http://127.0.0.1", "protected": False}]
    if kind in _BESIDE_GUARDS:
        kind = "prefix"
    else:
        rest = []
    return routes.compile(
        config.parse(
            {
                "version": 1,
                "routes": [
                    {"match": {"path": paths[kind](n)}, "upstream": "http://127.0.0.1"}
                    for n in range(size)
                ]
                + rest,
            }
        )
    )


def _taken() -> dict[str, list[float]]:
    """Return the microseconds of a match for each kind, by the number of routes."""
    took: dict[str, list[float]] = {}
    for kind, path in _ASKED.items():
        for size in _SIZES:
            table = _compiled(size, kind)
            assert isinstance(table.match("GET", "", path), routes.Matched)
            match = partial(table.match, "GET", "", path)
            runs = timeit.repeat(match, number=2000, repeat=15)
            took.setdefault(kind, []).append(min(runs) / 2000 * 1e6)
    return took


def measure(python: Path) -> Part:
    """Time matches with *python*. The minimum of 15 rounds has the least noise."""
    process = subprocess.run(
        [python, "-m", "bench.parts.routes", "--json"], capture_output=True, check=True
    )
    return part(json.loads(process.stdout))


def part(took: dict[str, list[float]]) -> Part:
    """Return this part of the report, from microseconds by kind of path."""
    ratio = max(us[-1] / us[0] for us in took.values())
    most_us = max(us[-1] for us in took.values())
    return Part(
        title="Routes",
        how="Microseconds for a match, by the kind of path and the number of routes.",
        tables=[
            Table(
                columns=("path", *(f"{size:,} routes" for size in _SIZES), "ratio"),
                rows=[
                    (kind, *(f"{one:.2f}" for one in us), f"{us[-1] / us[0]:.2f}")
                    for kind, us in took.items()
                ],
            )
        ],
        targets=[
            *goals.judged("P9 ratio", [ratio]),
            *goals.judged("P9 slowest", [most_us]),
        ],
        samples={kind: [{"us": one} for one in us] for kind, us in took.items()},
    )


def main() -> int:
    """Print a row for each kind of path; return 1 if a goal is missed."""
    took = _taken()
    if "--json" in sys.argv:
        print(json.dumps(took))
        return 0
    result = part(took)
    print("\n".join(result.markdown()))
    for target in result.targets:
        print(f"{target.what}: {target.measured}; goal: {target.goal}.")
    return int(not all(target.is_reached for target in result.targets))


if __name__ == "__main__":
    sys.exit(main())
