"""The default number of workers, and the supervisor's messages about them.

test_workers_plan.py tests the supervisor's decisions, test_workers_serve.py real
processes.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest

from gateway.process.cpus import usable_cpus
from gateway.process.surroundings import how_it_ended, is_read

# --- number of workers ----------------------------------------------------------

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
def test_a_container_has_the_cpus_of_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], count: int
) -> None:
    """The number of CPUs is the cgroup's limit, rounded up, not the machine's 64."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cpus(tmp_path) == count


def test_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPUs are those of the affinity, or all where the system has none."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5})
    assert usable_cpus(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cpus(tmp_path) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(tmp_path) == 1
    assert usable_cpus() >= 1


# --- messages -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was ended by SIGKILL"),
        (-signal.SIGSEGV, "was ended by SIGSEGV"),
        (-63, "was ended by signal 63"),
    ],
)
def test_how_a_process_ended(code: int, text: str) -> None:
    """The text has the exit code or the signal's name."""
    assert how_it_ended(code) == text


def test_a_full_pipe_isn_t_written_to(tmp_path: Path) -> None:
    """`is_read` is false for a full pipe only.

    The supervisor must relay sign-outs, so that it can't wait for a log reader.
    """
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
        assert is_read(file)  # writing to it raises the error
    assert is_read(StringIO())
