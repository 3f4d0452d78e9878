"""How many workers there are, and what is said of them.

What the supervisor decides is test_workers_plan.py's, and what becomes of it
test_workers_serve.py's.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest

from gateway.process.cpus import usable_cpus
from gateway.process.supervisor import how_it_ended, is_read

# --- how many -------------------------------------------------------------------

V2 = "0::/\n"
LIMITS: dict[str, tuple[dict[str, str], int]] = {
    "nothing to read": ({}, 64),
    "no limit": ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "max 100000"}, 64),
    "one": ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
    "a half": ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
    "a half more": (
        {"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "150000 100000"},
        2,
    ),
    "more than there are": (
        {"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "9900000 100000"},
        64,
    ),
    "group within groups": (
        {
            "proc/self/cgroup": "1:name=systemd:/\n0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "300000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
        },
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:cpu:/x\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "version 1 without a limit": (
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        64,
    ),
    "nonsense": ({"proc/self/cgroup": "0::/../..", "sys/fs/cgroup/cpu.max": "x"}, 64),
    "no period": ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "1000 0"}, 64),
}


@pytest.mark.parametrize(("files", "count"), LIMITS.values(), ids=LIMITS)
def test_a_container_gets_as_many_as_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], count: int
) -> None:
    """One CPU's share on a machine with 64 is one worker, not 64."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cpus(tmp_path) == count


def test_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `taskset` and cpusets set it; systems without it have all their CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5})
    assert usable_cpus(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cpus(tmp_path) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(tmp_path) == 1
    assert usable_cpus() >= 1


# --- what is said ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was ended by SIGKILL"),
        (-signal.SIGSEGV, "was ended by SIGSEGV"),
        (-63, "was ended by signal 63"),
    ],
)
def test_an_end_is_told_in_words(code: int, said: str) -> None:
    """As an operator looks for it."""
    assert how_it_ended(code) == said


def test_what_nobody_reads_isn_t_written(tmp_path: Path) -> None:
    """The supervisor must pass sign-outs on: it can't wait for a full pipe."""
    reads, writes = os.pipe()
    with (
        os.fdopen(reads, "rb", buffering=0) as reader,
        os.fdopen(writes, "w") as pipe,
        (tmp_path / "file").open("w") as file,
    ):
        assert is_read(file)
        assert is_read(pipe)
        os.set_blocking(writes, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writes, bytes(4096))
        assert not is_read(pipe)
        reader.read(65536)
        assert is_read(pipe)
        file.close()
        assert is_read(file)  # whoever writes to it will see
    assert is_read(StringIO())
