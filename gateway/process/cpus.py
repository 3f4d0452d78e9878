"""edge. The number of CPUs that this process may use, and so of workers to run."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from gateway.process.control_groups import control_groups


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use, at least 1.

    The lowest of its affinity (`taskset`, cpusets) and the CPU quotas of its control
    group and the groups above it, which limit containers. A quota is rounded up to
    whole CPUs. *root* is where `proc` and `sys` are mounted.

    Source: Linux, admin-guide/cgroup-v2 (cpu.max), cgroup-v1 (cpu.cfs_quota_us).
    """
    if hasattr(os, "sched_getaffinity"):
        most = len(os.sched_getaffinity(0))
    else:
        most = os.cpu_count() or 1
    return max(1, min(most, math.ceil(min(_quotas(root), default=most))))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas that control groups set for this process, in CPUs."""
    groups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):  # not cgroup v1, or no limit
        period, quota = (
            int((groups / "cpu" / f"cpu.cfs_{name}_us").read_text())
            for name in ("period", "quota")
        )
        if quota > 0 and period > 0:
            yield quota / period
    for group in control_groups(root):
        with contextlib.suppress(OSError, ValueError):  # no file, or "max": no limit
            quota, period = map(int, (group / "cpu.max").read_text().split())
            if quota > 0 and period > 0:
                yield quota / period
