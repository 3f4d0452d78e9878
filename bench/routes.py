"""How a route match grows with the number of routes (`make bench-routes`)."""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable

from gateway import config, routes

_SIZES = (10, 1_000, 10_000)
_GOAL_RATIO, _GOAL_US = 2.0, 5.0


def _table(size: int, kind: str) -> routes.RouteTable:
    paths: dict[str, Callable[[int], dict[str, str]]] = {
        "exact": lambda n: {"exact": f"/area{n % 100}/thing{n}/list"},
        "prefix": lambda n: {"prefix": f"/area{n % 100}/thing{n}"},
        "template": lambda n: {"template": f"/area{n % 100}/thing{n}/{{id}}/items"},
    }
    return routes.compile(
        config.parse(
            {
                "version": 1,
                "routes": [
                    {"match": {"path": paths[kind](n)}, "upstream": "http://127.0.0.1"}
                    for n in range(size)
                ],
            }
        )
    )


def main() -> int:
    """Print a row for each kind of path; return 1 if the goal is missed."""
    asked = {
        "exact": "/area7/thing7/list",
        "prefix": "/area7/thing7/a/b/c",
        "template": "/area7/thing7/42/items",
    }
    missed = False
    print(f"| path | {' | '.join(f'{size} routes' for size in _SIZES)} | ratio |")
    print(f"|---|{'---|' * len(_SIZES)}---|")
    for kind, path in asked.items():
        took = []
        for size in _SIZES:
            table = _table(size, kind)
            assert isinstance(table.match("GET", "", path), routes.Matched)
            runs = timeit.repeat(
                lambda table=table, path=path: table.match("GET", "", path),
                number=2000,
                repeat=15,
            )
            took.append(min(runs) / 2000 * 1e6)
        ratio = took[-1] / took[0]
        missed |= ratio > _GOAL_RATIO or took[-1] > _GOAL_US
        print(f"| {kind} | {' | '.join(f'{us:.2f} µs' for us in took)} | {ratio:.2f} |")
    print(f"\nGoal: at most {_GOAL_RATIO:g} times, and {_GOAL_US:g} µs.")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
