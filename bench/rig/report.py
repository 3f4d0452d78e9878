"""The results: figures with their spread, ratios, targets, report, comparison.

Nothing here measures, starts or reads a clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

QUIET = 0.10
"""The largest share of CPU time that other processes may use; above it, the verdicts
aren't reliable."""
WORSE = 1.15
"""A regression: the ratio to nginx is more than this multiple of the earlier one."""

_VERDICTS = {True: "reached", False: "**not reached**", None: "no verdict"}
_HOW = (
    "CPU is user and system time of the proxy's whole process tree, as the system"
    " accounts it; the median of all rounds (least to most)."
)


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of a figure that was measured several times."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """Return the median, with minimum and maximum if there are several rounds."""
        if self.low == self.high:
            return f"{self.median:,.{digits}f}"
        return (
            f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to"
            f" {self.high:,.{digits}f})"
        )


def spread(values: Sequence[float]) -> Spread:
    """Return median, minimum and maximum."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio in each round; noise in a round affects both."""
    return [mine / other for mine, other in zip(ours, theirs, strict=False) if other]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that *share* of all don't exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under their names."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    title: str = ""

    def markdown(self) -> Iterator[str]:
        if self.title:
            yield from (f"### {self.title}", "")
        yield _row(self.columns)
        yield "|" + "---|" * len(self.columns)
        for row in self.rows:
            yield _row(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A goal of this project, with the measured value."""

    number: str
    what: str
    measured: str
    goal: str
    is_reached: bool | None
    """None: no verdict, the value is reported only."""


@dataclass(slots=True, kw_only=True)
class Part:
    """The results of one part of the comparison."""

    title: str
    how: str
    """A description of the measurement."""
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Missing measurements, and caveats."""
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Each figure of each round, for later comparison."""

    def markdown(self) -> Iterator[str]:
        yield from (f"## {self.title}", "", self.how, "")
        for table in self.tables:
            yield from (*table.markdown(), "")
        for note in self.notes:
            yield from (f"{note}.", "")


def page(
    head: Mapping[str, Any],
    parts: Mapping[str, Part],
    targets: Sequence[Target],
    picture: str = "",
) -> str:
    """Return the whole report as Markdown; *picture* is the file name of its plot."""
    lines = [f"# Benchmark of {head['revision']}, {head['date']}", ""]
    lines += [f"{head['machine']}. {head['python']}. {head['wall']}.", ""]
    lines += [f"{busy(head['others'])}.", ""]
    lines += [_HOW, ""]
    if picture:
        lines += [f"![CPU of one request, by proxy and load]({picture})", ""]
    if targets:
        table = Table(
            columns=("target", "what", "measured", "goal", ""),
            rows=[
                (
                    target.number,
                    target.what,
                    target.measured,
                    target.goal,
                    _VERDICTS[target.is_reached],
                )
                for target in targets
            ],
        )
        lines += ["## Targets", "", *table.markdown(), ""]
    for part in parts.values():
        lines += part.markdown()
    made = Table(
        columns=("program", "version", "from", "built with"),
        rows=[
            (name, build["version"], build["source"], build["flags"] or "-")
            for name, build in head["builds"].items()
        ],
    )
    lines += ["## Builds", "", *made.markdown()]
    for note in head["notes"]:
        lines += ["", f"{note}."]
    return "\n".join(lines) + "\n"


def busy(others: Mapping[str, float]) -> str:
    """Return a line with the CPU time that other processes used, by part."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in others.items())
    line = f"CPU time that other processes used, by part: {shares}"
    if any(share > QUIET for share in others.values()):
        line += f". Above {QUIET:.0%} the verdicts aren't reliable: run it again"
    return line


def to_json(head: Mapping[str, Any], parts: Mapping[str, Part]) -> dict[str, Any]:
    """Return the report as plain values."""
    return {**head, "parts": {name: asdict(part) for name, part in parts.items()}}


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# --- regressions ------------------------------------------------------------

Samples = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A rival's cost as a multiple of nginx's, then and now."""

    name: str
    then: float
    now: float
    is_worse: bool

    def __str__(self) -> str:
        verdict = "a REGRESSION" if self.is_worse else "no regression"
        return (
            f"{self.name}: {self.now:.2f} times nginx, {self.then:.2f} times then:"
            f" {verdict}"
        )


def latest(reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the newest report that has figures for requests."""
    fit = [report for report in reports if "requests" in report.get("parts", {})]
    return max(fit, key=lambda report: str(report["date"]), default=None)


def why_not(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return why two reports can't be compared; empty when they can.

    Every ratio is relative to nginx, and another build of it has another cost.
    """
    was, is_now = (
        {name: one[name] for name in ("version", "source")} if one else None
        for one in (head.get("builds", {}).get("nginx") for head in (then, now))
    )
    if was == is_now:
        return ""
    known = was["source"] if was else "not recorded"
    return f"nginx was another build then ({known})"


def compare(then: Samples, now: Samples, names: Sequence[str]) -> list[Compared]:
    """Compare ratios to nginx, each taken within a round.

    Worse is what grew by more than WORSE, and lies apart from the earlier rounds: its
    better half of rounds is above their worse half. One noisy round is no regression.
    """
    changes = []
    for name in names:
        before, after = _to_nginx(then, name), _to_nginx(now, name)
        if before and after:
            middle, was = statistics.median(after), statistics.median(before)
            changes.append(
                Compared(
                    name=name,
                    then=was,
                    now=middle,
                    is_worse=middle > was * WORSE
                    and percentile(after, 0.25) > percentile(before, 0.75),
                )
            )
    return changes


def _to_nginx(samples: Samples, name: str) -> list[float]:
    if name not in samples or "nginx" not in samples:
        return []
    ours, theirs = (
        [float(sample["cpu_us"]) for sample in samples[who]] for who in (name, "nginx")
    )
    return ratios(ours, theirs)
