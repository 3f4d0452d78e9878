"""Change the gateway a little, and see whether a test notices (`make mutants`).

A fixed seed chooses changes of the rooms that refuse, strip, compare or expire. Each is
made in a copy of the tree, and meets the tests that run its lines: the nearest and the
fastest first. A change that no test notices has survived: a test is missing, or the
change is equivalent, and then `tools/mutants_equivalent.toml` says why.

What was killed isn't run again while the changed file is the same, so a run can be
interrupted, and repeated after a test was added; `--fresh` begins again. Exits with 1
if fewer than 98 % were killed of those that aren't equivalent, and with 130 at Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools import mutant_tests  # found only now
from tools.mutant_tests import ROOT, Ran, Test
from tools.mutations import Mutation, Name, mutations

ROOMS = (
    *("gateway/headers/*.py", "gateway/routes/*.py", "gateway/decide.py"),
    *("gateway/http/target.py", "gateway/http/request_head.py"),
    *("gateway/http/framing.py", "gateway/http/chunks.py", "gateway/http/fields.py"),
    *("gateway/http/lines.py", "gateway/http/path_pattern.py"),
    *("gateway/session/credentials.py", "gateway/session/tokens.py"),
    *("gateway/session/verified_tokens.py", "gateway/session/deny_list.py"),
    *("gateway/session/requirements.py", "gateway/session/refusals.py"),
    *("gateway/session/core_calls.py", "gateway/session/authenticator.py"),
    *("gateway/identity.py", "gateway/clients.py", "gateway/verify.py"),
    *("gateway/downstream/cors.py", "gateway/websocket/handshake.py"),
)
"""The rooms that refuse, strip, compare or expire."""
_NOT = (
    *("gateway/routes/describe.py", "gateway/routes/labels.py"),
    *("gateway/routes/remarks.py", "gateway/routes/explain.py"),
    *("gateway/routes/difference.py", "gateway/routes/always.py"),
    *("gateway/routes/ways.py", "gateway/routes/path_classes.py"),
)
"""Words for people, and what only commands use: no request meets a rule in them."""
TESTS = (
    *("tests/headers/*", "tests/http/*", "tests/session/*", "tests/routes/*"),
    *("tests/test_decide.py", "tests/test_identity.py", "tests/test_clients.py"),
    *("tests/test_verify.py", "tests/test_forward.py", "tests/test_corpus.py"),
    *(
        "tests/test_walk.py",
        "tests/config/*",
        "tests/supertokens/test_session_check.py",
    ),
    *("tests/downstream/test_cors.py", "tests/downstream/test_exchange.py"),
    *("tests/websocket/test_handshake.py",),
)
_EQUIVALENT = ROOT / "tools" / "mutants_equivalent.toml"
_GOAL = 0.98


def matching(patterns: Sequence[str]) -> list[str]:
    """Return the files of the repository that match one of the patterns."""
    return [
        name
        for name in mutant_tests.listed()
        if any(fnmatch(name, pattern) for pattern in patterns) and name not in _NOT
    ]


def candidates(rooms: Sequence[str]) -> list[Mutation]:
    """Return every change of the rooms."""
    return [
        mutation
        for name in matching(rooms)
        for mutation in mutations(name, (ROOT / name).read_bytes())
    ]


def chosen(made: Sequence[Mutation], seed: int, count: int) -> list[Mutation]:
    """Return *count* changes. Other changes of the code hardly change the choice."""

    def rank(mutation: Mutation) -> bytes:
        return hashlib.sha256(f"{seed} {mutation.key}".encode()).digest()

    valid = (each for each in sorted(made, key=rank) if _is_valid(each))
    return list(itertools.islice(valid, count))


def _is_valid(mutation: Mutation) -> bool:
    try:
        mutation.applied((ROOT / mutation.path).read_bytes())
    except SyntaxError:
        return False
    return True


def equivalent() -> dict[Name, str]:
    """Return the reason of each change that changes nothing, by what it reads."""
    entries = tomllib.loads(_EQUIVALENT.read_text(encoding="utf-8"))
    return {
        (
            *(each["path"], each["function"], each["before"], each["after"]),
            each.get("number", 1),
        ): each["reason"]
        for each in entries.get("equivalent", [])
    }


class State:
    """What became of each change, in a file that a run goes on from."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        self._ended: dict[str, dict[str, str]] = {}
        if not fresh:
            with contextlib.suppress(FileNotFoundError, ValueError):
                self._ended = json.loads(path.read_text())

    def killed(self, mutation: Mutation) -> Ran | None:
        """Return how it was killed, if it was and its file is the same."""
        ended = self._ended.get(mutation.key, {})
        if ended.get("of") != mutant_tests.digest([mutation.path]):
            return None
        ran = Ran(ended["outcome"], ended["by"])
        return ran if ran.outcome in ("killed", "timeout") else None

    def note(self, mutation: Mutation, ran: Ran) -> None:
        of = mutant_tests.digest([mutation.path])
        self._ended[mutation.key] = {**asdict(ran), "of": of}
        self._path.write_text(json.dumps(self._ended, indent=0))


class Judge:
    """Says what the tests say of a change, in a copy of the tree of its own."""

    def __init__(self, folder: Path, tests: Sequence[Test]) -> None:
        self._copy = folder / f"copy-{os.getpid()}"
        self._tests = tests
        mutant_tests.copied(self._copy)

    def outcome(self, mutation: Mutation) -> Ran:
        """Return how the tests of the changed lines end."""
        first, last = mutation.statement
        lines = None if mutation.at_import else range(first, last + 1)
        found = mutant_tests.covering(self._tests, mutation.path, lines)
        if not found:
            return Ran("survived", "no test runs it")
        path = self._copy / mutation.path
        source = path.read_bytes()
        path.write_bytes(mutation.applied(source))
        try:
            for tests in mutant_tests.in_turn(found):
                ran = mutant_tests.run(self._copy, tests)
                if ran.outcome != "survived":
                    return ran
        finally:
            path.write_bytes(source)
        return Ran("survived", f"{len(found)} tests")


_judges: list[Judge] = []
"""The judge of this process, if it has one."""


def _begin(folder: Path, tests: Sequence[Test]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the children
    _judges.append(Judge(folder, tests))


def _outcome(mutation: Mutation) -> Ran:
    (judge,) = _judges
    return judge.outcome(mutation)


def outcomes(
    picked: Sequence[Mutation], state: State, begin: tuple[Path, list[Test]], count: int
) -> Iterator[tuple[Mutation, Ran]]:
    """Yield what became of each change, in order; *count* processes find it out."""
    known = equivalent()
    ended: dict[str, Ran] = {}
    for mutation in picked:
        if mutation.name in known:
            ended[mutation.key] = Ran("equivalent", known[mutation.name])
        elif (killed := state.killed(mutation)) is not None:
            ended[mutation.key] = killed
    left = [mutation for mutation in picked if mutation.key not in ended]
    # Forked: the libraries are imported, and the tests needn't be sent.
    with ProcessPoolExecutor(
        count, multiprocessing.get_context("fork"), _begin, begin
    ) as pool:
        try:
            judged = pool.map(_outcome, left)
            for mutation in picked:
                ran = ended.get(mutation.key)
                if ran is None:
                    ran = next(judged)
                    state.note(mutation, ran)
                yield mutation, ran
        except BaseException:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def shown(mutation: Mutation) -> Iterator[str]:
    """Yield the lines of a survivor."""
    number = f" #{mutation.number}" if mutation.number > 1 else ""
    yield f"--- {mutation.path}:{mutation.line} {mutation.function}{number}"
    yield f"-{mutation.before}"
    yield f"+{mutation.after}"


def report(
    judged: Iterable[tuple[Mutation, Ran]], counts: Counter[str]
) -> list[Mutation]:
    """Print and count what became of each change; return the survivors."""
    survivors = []
    for number, (mutation, ran) in enumerate(judged, 1):
        counts[ran.outcome] += 1
        if ran.outcome == "survived":
            survivors.append(mutation)
        place = f"{mutation.path}:{mutation.line}"
        print(f"{number:4} {ran.outcome:10} {mutation.key} {place} {ran.by}")
        sys.stdout.flush()
    return survivors


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/mutants.py", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="changes (200)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice (1)")
    parser.add_argument("--room", action="append", help="a file, or a pattern of some")
    parser.add_argument("--key", action="append", help="this change only")
    parser.add_argument("--processes", type=int, default=2, help="at once (2)")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    parser.add_argument(
        "--state", type=Path, default=ROOT / ".gateway" / "mutants", help="a folder"
    )
    return parser.parse_args()


def main() -> int:
    options = _options()
    folder: Path = options.state
    folder.mkdir(parents=True, exist_ok=True)
    mutant_tests.warm()
    made = candidates(options.room or ROOMS)
    picked = chosen(made, options.seed, options.count)
    if options.key:
        picked = [each for each in made if each.key in options.key]
    print(f"# {len(picked)} of {len(made)} changes, seed {options.seed}")
    files = [each for each in matching(TESTS) if Path(each).name.startswith("test_")]
    tests = mutant_tests.Map(folder, matching(ROOMS)).tests(files)
    state = State(folder / "state.json", fresh=options.fresh)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=folder) as copies:
        begin = (Path(copies), tests)
        survivors = report(outcomes(picked, state, begin, options.processes), counts)
    for survivor in survivors:
        print("\n" + "\n".join(shown(survivor)))
    killed = counts["killed"] + counts["timeout"]
    rest = len(picked) - counts["equivalent"]
    share = killed / rest if rest else 1.0
    print(
        f"\n{killed} killed ({counts['timeout']} by the time limit),"
        f" {counts['survived']} survived, {counts['equivalent']} equivalent:"
        f" {share:.1%} of the rest killed (goal {_GOAL:.0%})"
    )
    return 0 if share >= _GOAL else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted: the next run goes on from here")
        sys.exit(130)
