"""Which tests run which lines, and a run of chosen tests (`make mutants`).

The map from lines to tests is made file by file of the tests, and made again only for
those that have changed. Each run is a fork of a process that has imported the
libraries already, in a copy of the tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parent.parent
FEW = 40
"""How many tests a mutant meets at first."""
_ALL_S = 300.0
"""It meets no more once those so far took this long in the map, in seconds."""
_SLOW_S = 1.0
"""Slower tests are the last ones."""
_MAP_TEST_S = 300
"""A test may take this long, in seconds, while its lines are recorded."""
_STARTED_S = 30.0
"""A run may take this long, in seconds, and six times what its tests took."""
_MEMORY_BYTES = 4 << 30
"""A mutant may loop and allocate."""
_PR_SET_PDEATHSIG = 1
"""Source: prctl(2), linux/prctl.h."""
_LIBRARIES = (
    *("pytest", "_pytest.assertion.rewrite", "pytest_asyncio.plugin", "hypothesis"),
    *("hypothesis.extra.pytestplugin", "aiohttp", "aiohttp.web", "aiohttp.test_utils"),
    *("uvloop", "httptools", "yaml", "pydantic", "click", "rich.console", "httpx"),
    *("cryptography.x509", "websockets", "wsproto", "blockbuster", "pytest_cov.plugin"),
    *("supertokens_python", "supertokens_python.recipe.session.asyncio"),
    *("xdist.plugin", "pytest_timeout", "pytest_aiohttp.plugin"),
)
"""What most tests import. One that is missing is imported by the test instead."""


@dataclass(slots=True)
class Test:
    """One test: seconds that it took, and the lines of the gateway that it ran."""

    name: str
    seconds: float
    lines: dict[str, list[int]]

    @property
    def file(self) -> str:
        return self.name.partition("::")[0]

    @property
    def function(self) -> str:
        return self.name.partition("[")[0]


def listed() -> list[str]:
    """Return the repository's files, those that aren't yet committed too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(  # noqa: S603 - fixed arguments
        command, cwd=ROOT, check=True, capture_output=True, text=True
    )
    return sorted(name for name in done.stdout.splitlines() if (ROOT / name).is_file())


def copied(folder: Path) -> None:
    """Write a copy of the repository's files into a folder; keep what is the same."""
    names = set(listed())
    for old in folder.rglob("*.py"):
        if str(old.relative_to(folder)) not in names:
            old.unlink()
    for name in names:
        old, new = folder / name, (ROOT / name).read_bytes()
        if not old.exists() or old.read_bytes() != new:
            old.parent.mkdir(parents=True, exist_ok=True)
            old.write_bytes(new)


def digest(names: Iterable[str]) -> str:
    """Return a digest of files of the repository."""
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(name.encode() + b"\0" + (ROOT / name).read_bytes() + b"\0")
    return whole.hexdigest()[:16]


# --- the map ----------------------------------------------------------------


_COMMON = (
    *("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"),
    # The plugins are among the libraries that are imported already.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


class Recorder:
    """A pytest plugin: notes how long each test took, and whether it passed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.failed.add(report.nodeid)


class Map:
    """The tests of some files, read from a file or made."""

    def __init__(self, folder: Path, rooms: Sequence[str]) -> None:
        self._path = folder / "map.json"
        self._rooms = rooms
        self._copy = folder / "copy"

    def tests(self, files: Sequence[str]) -> list[Test]:
        """Return the tests of *files*; run those that the map lacks.

        Raises:
            SystemExit: the tests of a file can't be run.
        """
        code = digest(self._rooms)
        known: dict[str, dict[str, object]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            saved = json.loads(self._path.read_text())
            known = saved["files"] if saved["of"] == code else {}
        made: list[Test] = []
        for file in files:
            mine = digest([file, *_data_of(file)])
            if known.get(file, {}).get("of") != mine:
                print(f"map: {file}", file=sys.stderr, flush=True)
                copied(self._copy)
                known[file] = {"of": mine, "tests": self._run(file)}
                self._path.write_text(json.dumps({"of": code, "files": known}))
            tests = known[file]["tests"]
            assert isinstance(tests, list)
            made += [Test(*each) for each in tests]
        return made

    def _run(self, file: str) -> list[tuple[str, float, dict[str, list[int]]]]:
        data = self._copy / ".map.json"
        data.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            _quietly(self._copy, lambda: _mapped(file, data, self._rooms))
        os.waitpid(pid, 0)
        if not data.exists():
            output = (self._copy / ".output").read_text(errors="replace")
            raise SystemExit(f"error: {file} can't be run:\n{output[-2000:]}")
        passed, failed = json.loads(data.read_text())
        # A test of memory or time may fail under coverage only.
        sound = (each for each in failed if not run(self._copy, [Test(*each)]).by)
        return [*passed, *sound]


def _data_of(file: str) -> list[str]:
    """Return the cases of a file of tests: tests/corpus/ of tests/test_corpus.py."""
    path = Path(file)
    folder = f"{path.parent}/{path.stem.removeprefix('test_')}/"
    return [name for name in listed() if name.startswith(folder)]


def _mapped(file: str, data: Path, rooms: Sequence[str]) -> int:
    """Run the tests of one file with coverage, and write their lines."""
    import coverage
    import pytest

    recorder = Recorder()
    code = pytest.main(
        [
            *_COMMON,
            *(
                "--cov=gateway",
                "--cov-context=test",
                "--cov-report=",
                "--cov-fail-under=0",
                # By a signal, a test that takes too long fails. By a thread, the
                # process would end, and with it the map.
                f"--timeout={_MAP_TEST_S}",
                "--timeout-method=signal",
                file,
            ),
        ],
        plugins=[recorder],
    )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(code)
    lines: dict[str, dict[str, list[int]]] = defaultdict(dict)
    measured = coverage.CoverageData()
    measured.read()
    for path in measured.measured_files():
        name = str(Path(path).relative_to(Path.cwd()))
        if name in rooms:
            for line, contexts in measured.contexts_by_lineno(path).items():
                for context in contexts:
                    test = context.partition("|")[0]
                    if test and line not in lines[test].setdefault(name, []):
                        lines[test][name].append(line)
    made = [
        (test, round(seconds, 4), lines[test])
        for test, seconds in recorder.seconds.items()
        if test in lines
    ]
    passed = [each for each in made if each[0] not in recorder.failed]
    failed = [each for each in made if each[0] in recorder.failed]
    data.write_text(json.dumps((passed, failed)))
    return 0


# --- the choice ---------------------------------------------------------------


def covering(tests: Iterable[Test], path: str, lines: range | None) -> list[Test]:
    """Return the tests that run a line, or any of the file: the nearest first.

    Of each test function the fastest case is first, then the second of each.
    """
    rounds: dict[str, Iterable[int]] = defaultdict(itertools.count)
    found = [
        test
        for test in tests
        if (ran := test.lines.get(path))
        and (lines is None or any(line in lines for line in ran))
    ]
    found.sort(key=lambda test: test.seconds)
    ranked = []
    for test in found:
        turn = next(iter(rounds[test.function]))
        late = test.seconds > _SLOW_S, turn > 2
        place = (*late, _distance(path, test.file), turn, test.seconds)
        ranked.append((place, test))
    ranked.sort(key=lambda each: each[0])
    taken_s = itertools.accumulate(test.seconds for _, test in ranked)
    near = zip(ranked, taken_s, strict=True)
    return [test for (_, test), so_far_s in near if so_far_s - test.seconds < _ALL_S]


def in_turn(found: Sequence[Test]) -> Iterator[Sequence[Test]]:
    """Yield the tests of the nearest file, then of the others; the many at last.

    Most changes are killed by the first ones, before the other files are imported.
    """
    few = found[:FEW]
    yield [test for test in few if test.file == few[0].file]
    for rest in ([test for test in few if test.file != few[0].file], found[FEW:]):
        if rest:
            yield rest


def _distance(path: str, file: str) -> int:
    """Return 0 for the tests of a module, 1 for those of its room, otherwise 2."""
    module = Path(path)
    room = module.parts[1].removesuffix(".py")
    if Path(file).name in (f"test_{module.stem}.py", f"test_{room}_{module.stem}.py"):
        return 0
    return 1 if Path(file).parts[1] == room or f"test_{room}" in file else 2


# --- a run ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ran:
    """How tests ended: `killed` with the failed test, `survived`, or `timeout`."""

    outcome: str
    by: str = ""


class _Chosen:
    """A pytest plugin: runs the chosen tests only, in the order of the choice."""

    def __init__(self, names: Sequence[str]) -> None:
        self._order = {name: at for at, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order),
            key=lambda item: self._order[item.nodeid],
        )


def warm() -> None:
    """Import the libraries, so that each run starts with them."""
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def run(copy: Path, tests: Sequence[Test]) -> Ran:
    """Run tests in a copy of the tree, until the first failure or the time limit."""
    allowed_s = _STARTED_S + 6 * sum(test.seconds for test in tests)
    files = list(dict.fromkeys(test.file for test in tests))
    names = [test.name for test in tests]
    pid = os.fork()
    if pid == 0:
        _quietly(copy, lambda: _tested(files, names))
    deadline = time.monotonic() + allowed_s
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended:
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ran("timeout", f"{allowed_s:.0f} s")
        time.sleep(0.02)
        ended, status = os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what a test may have left
    if status == 0:
        return Ran("survived")
    output = (copy / ".output").read_text(errors="replace")
    return Ran("killed", _first_failure(output))


def _first_failure(output: str) -> str:
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.partition(" ")[2].partition(" - ")[0]
    return "the import" if "Error" in output else "a crash"


def _tested(files: Sequence[str], names: Sequence[str]) -> int:
    import pytest

    code = pytest.main(
        [*_COMMON, "-x", "--tb=line", "--no-cov", *files],
        plugins=[_Chosen(names)],
    )
    # No test was found: nothing failed, so nothing was killed.
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)


def _quietly(copy: Path, work: object) -> None:
    """Do the work in the copy, in a child process, which ends here."""
    code = 70
    try:
        os.setsid()
        with contextlib.suppress(AttributeError):  # Linux: to end with the parent
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        output = os.open(copy / ".output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        sys.path[:] = [str(copy), *(p for p in sys.path if p not in ("", str(ROOT)))]
        assert callable(work)
        code = work()
    except BaseException:  # noqa: BLE001 - the child ends here, whatever happened
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
