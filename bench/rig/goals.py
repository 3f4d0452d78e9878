"""The goals P1 to P17: what each one limits, and the limit.

Nothing here measures. A part of the benchmark passes its values to `judged`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.rig.report import Part, Target, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One goal. A number such as P7 may have several."""

    what: str
    most: float | None = None
    """Upper limit of the median of all rounds; None: the value is reported only."""
    unit: str = ""


GOALS = {
    "P1": Goal(what="token seen before, vs HAProxy `jwt_verify`", most=0.6),
    "P2": Goal(what="token seen before, vs Envoy `jwt_authn`", most=0.4),
    "P3": Goal(what="token seen before, vs Caddy without verification", most=0.4),
    "P4": Goal(what="token seen before, vs nginx without verification", most=1.45),
    "P5": Goal(what="every token new, vs HAProxy", most=1.6),
    "P6": Goal(what="protected vs public route", most=1.1),
    "P7 upload": Goal(
        what="CPU of a large upload, vs nginx unbuffered, 64 KiB", most=1.5
    ),
    "P7 download": Goal(
        what="CPU of a large download, vs nginx unbuffered, 64 KiB", most=1.5
    ),
    "P7 memory, upload": Goal(
        what="growth of memory, large upload", most=16, unit=" MiB"
    ),
    "P7 memory, download": Goal(
        what="growth of memory, large download", most=16, unit=" MiB"
    ),
    "P8": Goal(what="memory with idle connections", most=105, unit=" MB"),
    "P9 ratio": Goal(what="a match with 10,000 routes, vs 10", most=1.5),
    "P9 slowest": Goal(
        what="the slowest match with 10,000 routes", most=1.5, unit=" µs"
    ),
    "P10": Goal(what="p99 at half load, vs HAProxy", most=1.0),
    "P11": Goal(what="CPU a request with two workers, vs one", most=1.1),
    "P12": Goal(what="a WebSocket message, vs nginx", most=2.0),
    "P13": Goal(what="a browser's head, cookies, vs HAProxy"),
    "P13 counted": Goal(what="instructions, a browser's head", most=150_000),
    "P14": Goal(what="behind a terminator, JSON log, vs HAProxy"),
    "P14 counted": Goal(what="instructions, behind a terminator", most=190_000),
    "P15": Goal(what="POST with a small body, vs HAProxy"),
    "P15 counted": Goal(what="instructions, POST with a small body", most=130_000),
    "P16": Goal(what="first answer after `gateway serve`", most=0.5, unit=" s"),
    "P17 64 KiB": Goal(what="a reply of 64 KiB, vs nginx", most=1.5),
    "P17 1 MiB": Goal(what="a reply of 1 MiB, vs nginx", most=1.5),
}

_COUNTED = {"P13 counted": "browser", "P14 counted": "fwd", "P15 counted": "post"}


def judged(key: str, values: Sequence[float]) -> list[Target]:
    """Return the verdict on the median of *values*.

    The list is empty without values: a goal isn't judged if a rival is missing.
    """
    if not values:
        return []
    goal, measured = GOALS[key], spread(values)
    digits = 0 if measured.median >= 1000 else 2
    return [
        Target(
            number=key.partition(" ")[0],
            what=goal.what,
            measured=f"{measured.text(digits)}{goal.unit}",
            goal="none" if goal.most is None else f"≤ {goal.most:,g}{goal.unit}",
            is_reached=None if goal.most is None else measured.median <= goal.most,
        )
    ]


def counted(result: Mapping[str, Any]) -> Part:
    """Return the verdicts on the goals in instructions, by the committed *result*.

    `make bench-instructions` counts instructions; this benchmark doesn't.
    """
    loads = result["loads"]
    return Part(
        title="Instructions",
        how="Not measured in this run: `make bench-instructions` counted them for the"
        f' commit "{result["commit"]}" on {result["date"]}. docs/performance.md'
        " explains the method.",
        targets=[
            target
            for key, load in _COUNTED.items()
            if load in loads
            for target in judged(key, [loads[load]["instructions"]])
        ],
    )


def in_order(
    targets: Iterable[Target], *, may_judge_nginx: bool = True
) -> list[Target]:
    """Return targets sorted by number, P2 before P10, and otherwise as they were.

    Without *may_judge_nginx*, ratios to nginx get no verdict, since its build is slow.
    """
    ordered = sorted(targets, key=lambda target: int(target.number[1:]))
    if may_judge_nginx:
        return ordered
    return [
        replace(one, is_reached=None) if "vs nginx" in one.what else one
        for one in ordered
    ]
