"""deploy/ci: the steps of the action run here as GitHub runs them, on a repository with
a base and a pull request; the hooks run as pre-commit runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sdk_reset
import yaml
from click.testing import CliRunner

from gateway.cli import main

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "ci"
ACTION = yaml.safe_load((FOLDER / "action.yml").read_text("utf-8"))
STEPS = {one["id"]: one for one in ACTION["runs"]["steps"] if "run" in one}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
BIN = Path(sys.executable).parent
MATCHER = re.compile(
    json.loads((FOLDER / "test-matcher.json").read_text("utf-8"))["problemMatcher"][0][
        "pattern"
    ][0]["regexp"],
    re.MULTILINE,
)
"""Finds the failed tests in the output of `gateway test`, and nothing else."""
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
"""Source: GitHub, "Workflow syntax for GitHub Actions", jobs.<id>.steps[*].shell."""

TABLE = """\
version: 1
gateway: {limits: {max_body_size: 1MiB}}
supertokens: {connection_uri: http://core:3567}
defaults: {session: {check_database: on_write}}
services:
  app: {targets: ["https://app-1"], paths: exact}
include: [more.yaml]
tests:
  cases:
    - GET /orders: {none: 401}
"""
ORDERS = "routes:\n  - {name: orders, path: /orders, service: app}\n"
OPEN = ORDERS.replace("service: app", "service: app, protected: false")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a step has done."""

    code: int
    output: str
    """Standard output and standard error."""
    summary: str
    outputs: str


class Repository:
    """A clone with a pull request, and a runner's folders and variables."""

    def __init__(self, folder: Path) -> None:
        self.origin, self.clone = folder / "origin", folder / "clone"
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.origin.mkdir()
        self._git(self.origin, "init", "--quiet", "--initial-branch=main")

    def base(self, table: str, routes: str) -> None:
        """Commit the base, and clone it."""
        self._write(self.origin, table, routes)
        self._git(self.origin, "add", ".")
        author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        self._git(self.origin, *author, "commit", "--quiet", "--message=base")
        self._git(self.origin.parent, "clone", "--quiet", "origin", "clone")

    def change(self, table: str, routes: str) -> None:
        """Change the files as a pull request does."""
        self._write(self.clone, table, routes)

    def run(self, step: str, **inputs: str) -> Ran:
        """Run a step in the clone; *inputs* replace the defaults of the action."""
        given = {
            name.replace("-", "_"): one["default"]
            for name, one in ACTION["inputs"].items()
        } | {"base": "main", **inputs}
        environ = {
            name: re.sub(
                r"\$\{\{ inputs\.(\S+) \}\}",
                lambda found: given[found[1].replace("-", "_")],
                value,
            )
            for name, value in STEPS[step].get("env", {}).items()
        }
        files = {
            name: self.temp / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
        }
        for file in files.values():
            file.write_text("")
        done = subprocess.run(
            [*BASH, STEPS[step]["run"]],
            cwd=self.clone,
            env={
                **os.environ,
                **environ,
                **{name: str(file) for name, file in files.items()},
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "RUNNER_TEMP": str(self.temp),
                "GITHUB_ACTION_PATH": str(FOLDER),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        return Ran(
            code=done.returncode,
            output=done.stdout,
            summary=files["GITHUB_STEP_SUMMARY"].read_text(),
            outputs=files["GITHUB_OUTPUT"].read_text(),
        )

    @staticmethod
    def _write(folder: Path, table: str, routes: str) -> None:
        (folder / "config").mkdir(exist_ok=True)
        (folder / "config" / "routes.yaml").write_text(table)
        (folder / "config" / "more.yaml").write_text(routes)

    @staticmethod
    def _git(folder: Path, *args: str) -> None:
        subprocess.run(["git", *args], cwd=folder, check=True)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_pull_request_that_changes_nothing(repository: Repository) -> None:
    """Every step succeeds, and none annotates a warning or an error."""
    repository.base(TABLE, ORDERS)
    ran = {step: repository.run(step) for step in STEPS if step != "install"}
    assert {step: one.code for step, one in ran.items()} == dict.fromkeys(ran, 0), ran
    assert ran["check"].output == ""
    assert "1 test, 0 failed" in ran["test"].output
    assert ran["audit"].output == ran["diff"].output == ""
    assert "no difference" in ran["diff"].summary
    sarif = Path(ran["audit"].outputs.removeprefix("sarif=").strip())
    assert json.loads(sarif.read_text())["runs"][0]["results"] == []


def test_a_pull_request_that_opens_a_route(repository: Repository) -> None:
    """Test and comparison fail at its line, in the file that is included."""
    repository.base(TABLE, ORDERS)
    repository.change(TABLE, OPEN)
    assert repository.run("check").code == 0
    tested = repository.run("test")
    assert tested.code == 1
    assert tested.output.endswith("::remove-matcher owner=gateway-test::\n")
    assert MATCHER.findall(tested.output) == [
        ("config/routes.yaml", "10", "GET /orders as none")
    ]
    compared = repository.run("diff")
    assert compared.code == 1
    assert "::warning file=config/more.yaml,line=2,col=5::" in compared.output
    assert "becomes public: GET /orders" in compared.output
    assert "was  required by orders" in compared.summary


def test_a_grave_finding(repository: Repository) -> None:
    """It is annotated and fails the step; its SARIF is complete nevertheless."""
    repository.base(TABLE, ORDERS)
    unsafe = TABLE.replace("paths: exact", "tls: {verify: false}, paths: exact")
    repository.change(unsafe, ORDERS)
    ran = repository.run("audit")
    assert ran.code == 1
    assert re.search(r"^::error file=config/routes.yaml,line=6,.*GW007", ran.output)
    sarif = Path(ran.outputs.removeprefix("sarif=").strip())
    (result,) = json.loads(sarif.read_text())["runs"][0]["results"]
    assert result["ruleId"] == "GW007"
    known = repository.run("audit", baseline=str(sarif))
    assert (known.code, known.output) == (0, "")


def test_a_file_with_mistakes(repository: Repository) -> None:
    """The first step fails, with an annotation at the mistake."""
    repository.base(TABLE, ORDERS)
    repository.change(TABLE, ORDERS.replace("service:", "servise_:"))
    ran = repository.run("check")
    assert ran.code == 1
    assert "::error file=config/more.yaml,line=2," in ran.output


def test_a_base_to_compare_nothing_with(repository: Repository) -> None:
    """A new file, or one that is mended, can be merged. It is said."""
    repository.base("# nothing", "")
    repository.change(TABLE, ORDERS)
    ran = repository.run("diff")
    assert ran.code == 0, ran
    start = "::warning file=config/routes.yaml::the base's file can't be served"
    assert ran.output.startswith(start)
    ran = repository.run("diff", config="config/new.yaml")
    assert ran.code == 0, ran
    assert ran.output.startswith("::notice file=config/new.yaml::the base has no such")


def test_a_base_that_was_not_fetched(repository: Repository) -> None:
    """A shallow checkout lacks the base; it is fetched."""
    repository.base(TABLE, ORDERS)
    repository._git(repository.clone, "update-ref", "-d", "refs/remotes/origin/main")
    repository.change(TABLE, OPEN)
    ran = repository.run("diff")
    assert ran.code == 1, ran
    assert "becomes public" in ran.output


def test_a_table_without_tests(repository: Repository) -> None:
    """Is a notice, not a failure."""
    repository.base(TABLE.partition("tests:")[0], ORDERS)
    ran = repository.run("test")
    assert (ran.code, ran.output) == (
        0,
        "::notice file=config/routes.yaml::this route table has no tests\n",
    )


# --- the files ------------------------------------------------------------------


def test_no_input_is_part_of_a_script() -> None:
    """Inputs are variables: a branch named `$(…)` must not be run."""
    for step in STEPS.values():
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"


def test_the_action_installs_what_the_image_has() -> None:
    """Both files that it installs from are there, seen from the action's folder."""
    paths = re.findall(r'"\$GITHUB_ACTION_PATH/([^"]+)"', STEPS["install"]["run"])
    assert [(FOLDER / path).resolve() for path in paths] == [
        ROOT / "deploy" / "requirements.txt",
        ROOT,
    ]
    (setup,) = (one for one in ACTION["runs"]["steps"] if "uses" in one)
    lock = (ROOT / "Makefile").read_text("utf-8")
    assert f"--python-version {setup['with']['python-version']}" in lock


def test_the_workflow_uses_the_action() -> None:
    """With inputs and outputs that it has, on requests that get no secrets."""
    text = (FOLDER / "workflow.yml").read_text("utf-8")
    workflow: dict[Any, Any] = yaml.safe_load(text)
    assert set(workflow[True]) == {"pull_request"}  # YAML 1.1 reads `on` as true
    assert set(workflow["permissions"]) == {"contents", "security-events"}
    (job,) = workflow["jobs"].values()
    (step,) = (one for one in job["steps"] if "deploy/ci@" in one.get("uses", ""))
    assert set(step["with"]) <= set(ACTION["inputs"])
    outputs = set(re.findall(r"steps\.gateway\.outputs\.(\w+)", text))
    assert outputs == set(ACTION["outputs"])
    assert "secrets." not in text


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: str(hook["id"]))
def test_hooks(
    hook: dict[str, Any], repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each passes a good table, and fails for the mistake that it is for.

    Source: pre-commit, "Creating new hooks".
    """
    required = {"id", "name", "entry", "language"}
    assert (
        required
        <= set(hook)
        <= required
        | {
            *("args", "description", "files", "pass_filenames"),
        }
    )
    assert re.search(hook["files"], "config/routes.yaml")
    assert not re.search(hook["files"], "docs/routes.yaml")
    repository.base(TABLE, ORDERS)
    monkeypatch.chdir(repository.clone)
    sdk_reset.reset()
    program, *command = hook["entry"].split()
    assert program in PROJECT["scripts"]
    command += hook["args"]
    assert CliRunner().invoke(main, command).exit_code == 0
    table, routes = {
        "gateway-check": (TABLE, "routes: 1\n"),
        "gateway-test": (TABLE, OPEN),
        "gateway-audit": (
            TABLE.replace("paths: exact", "tls: {verify: false}"),
            ORDERS,
        ),
    }[hook["id"]]
    repository.change(table, routes)
    assert CliRunner().invoke(main, command).exit_code == 1
    sdk_reset.reset()
