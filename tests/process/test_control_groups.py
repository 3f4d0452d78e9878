"""The memory limit of this process's control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.process.control_groups import control_groups, memory_limit


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "1000\n"}, 1000),
        ({"a/b/memory.max": "max\n", "a/memory.max": "500", "memory.max": "9"}, 9),
        ({"a/b/memory.max": "300\n", "a/memory.max": "500"}, 300),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory/memory.limit_in_bytes": "4096\n"}, 4096),
        ({"memory.max": "not a number"}, None),
    ],
)
def test_the_lowest_limit_counts(
    files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    """Of the process's group and of those above it; of version 1, too."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:cpu:/x\n0::/a/b\n", "utf-8")
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    assert memory_limit(tmp_path) == limit


def test_groups_end_at_the_root(tmp_path: Path) -> None:
    """Without the file that names the group, it is the root."""
    groups = tmp_path / "sys/fs/cgroup"
    assert list(control_groups(tmp_path)) == [groups]
