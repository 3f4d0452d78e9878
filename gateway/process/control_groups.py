"""edge. The control groups that limit this process, and their limit of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def control_groups(root: Path = Path("/")) -> Iterator[Path]:
    """Yield the directory of this process's control group, and of those above it.

    *root* is where `proc` and `sys` are mounted. In a container, the first one may be
    the root of what it sees.

    Source: Linux, admin-guide/cgroup-v2.
    """
    groups = root / "sys/fs/cgroup"
    place = "."
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                place = line.removeprefix("0::/")
    for group in (groups / place, *(groups / place).parents):
        yield group
        if group == groups:
            break


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the most memory that this process's groups may use, in bytes.

    None: no limit is set.

    Source: Linux, admin-guide/cgroup-v2 (memory.max), cgroup-v1
    (memory.limit_in_bytes, which is nearly 2**63 without a limit).
    """
    limits = []
    with contextlib.suppress(OSError, ValueError):
        file = root / "sys/fs/cgroup/memory/memory.limit_in_bytes"
        limits.append(int(file.read_text()))
    for group in control_groups(root):
        with contextlib.suppress(OSError, ValueError):  # no file, or "max"
            limits.append(int((group / "memory.max").read_text()))
    return min((limit for limit in limits if limit < 2**60), default=None)
