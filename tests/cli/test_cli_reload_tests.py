"""The tests of a file, before a reload takes it: bounded, and never passed unrun."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sdk_reset
from click.testing import CliRunner

from gateway import settings
from gateway.cli import main, reload_tests
from gateway.process.config_files import ConfigFiles
from gateway.settings import Settings

ROUTES = """\
version: 1
supertokens: {connection_uri: "http://127.0.0.1:9", recipes: {emailpassword: {}}}
services: {web: {targets: ["http://web"]}}
routes: [{name: web, path: /, service: web, protected: false}]
tests: {cases: [{GET /: {none: 401}}]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    sdk_reset.reset()
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES)
    yield file
    sdk_reset.reset()


def loaded(file: Path) -> Settings:
    return settings.load(file, {})


def test_failures_have_a_place(file: Path) -> None:
    """They come from a process that reads the file again."""
    (problem,) = reload_tests.failures(loaded(file), [file])
    assert (problem.file, problem.line) == (str(file), 5)
    assert problem.message == "GET / as none: expected 401, got web (public)"
    file.write_text(ROUTES.replace("401", "web"))
    assert reload_tests.failures(loaded(file), [file]) == ()


def test_tests_that_can_not_be_run_have_failed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take too long, end without an answer, or can't be started."""
    found = loaded(file)
    (problem,) = reload_tests.failures(found, [file], limit_s=0.001)
    assert problem.message == "the tests take longer than 0.001 s"
    (problem,) = reload_tests.failures(found, [file.with_name("none.yaml")])
    assert problem.message == "the tests can't be run"
    monkeypatch.setattr(sys, "executable", str(file))
    (problem,) = reload_tests.failures(found, [file])
    assert problem.message == "the tests can't be run"


def test_a_file_that_has_changed(file: Path) -> None:
    """What was tested may not be what was read before."""
    files = ConfigFiles()
    files.load(lambda: loaded(file))
    assert not files.have_changed()
    file.write_text(ROUTES + "# changed")
    assert files.have_changed()


def test_check_runs_the_tests(file: Path) -> None:
    """With --tests only; a failure is an error with its place. None isn't a success."""

    def check(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["check", "-c", str(file), *args])
        return done.exit_code, done.output

    assert check()[0] == 0
    code, output = check("--tests")
    assert code == 1
    assert "GET / as none: expected 401, got web (public)" in output
    file.write_text(ROUTES.partition("tests:")[0])
    code, output = check("--tests")
    assert (code, "has no tests" in output) == (1, True)
