"""`gateway audit`: its formats and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

TABLE = """\
version: 1
gateway: {limits: {max_body_size: 1MiB}}
supertokens: {connection_uri: http://core:3567}
defaults: {protected: false}
services:
  app: {targets: ["http://app-1"], paths: exact}
routes:
  - {name: web, path: /, service: app}
  - {name: api, path: /api, service: app, protected: true}
"""
"""GW004 of `web` is high; GW014 of `api` is low."""
ACCEPT = "audit: {accept: [{rule: GW004, route: web, why: w, until: 9999-12-31}]}\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my routes.yaml"
    file.write_text(TABLE)
    return file


def audit(*args: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, args)])


@pytest.mark.parametrize(
    ("fail_on", "code"), [(None, 1), ("high", 1), ("low", 1), ("never", 0)]
)
def test_exit_codes(file: Path, fail_on: str | None, code: int) -> None:
    """Findings are a 1, from the severity that is asked for: high by default."""
    args = () if fail_on is None else ("--fail-on", fail_on)
    assert audit("-c", file, *args).exit_code == code
    file.write_text(TABLE + ACCEPT)
    code = 1 if fail_on == "low" else 0
    assert audit("-c", file, *args).exit_code == code


def test_text(file: Path) -> None:
    """A line for each finding with its place, and a summary; no colours in a pipe."""
    done = audit("-c", file)
    first, second, summary = done.stdout.splitlines()
    assert first == (
        f"{file}:8:5: high GW004 web: this route is public only because of"
        " defaults.protected: false. Write protected: false on it if that is meant, or"
        " protected: true"
    )
    assert second.startswith(f"{file}:9:5: low GW014 api: the core is never asked")
    assert summary == "2 findings: 1 high, 1 low"
    file.write_text(TABLE + ACCEPT)
    assert audit("-c", file).stdout.endswith("\n1 finding: 1 low; 1 accepted\n")


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_a_baseline(file: Path, form: str) -> None:
    """What was printed as JSON or SARIF isn't reported again; what is new is."""
    before = file.with_name("before")
    before.write_text(audit("-c", file, "--format", form).stdout)
    file.write_text(TABLE + "  - {name: new, path: /new, service: app}\n")
    done = audit("-c", file, "--baseline", before)
    assert done.exit_code == 1
    assert "GW004 new" in done.stdout
    assert done.stdout.endswith("\n1 finding: 1 high; 2 in the baseline\n")


def test_what_cannot_be_used(file: Path) -> None:
    """A file with problems, no file, and a baseline that is none: exit code 2."""
    bad = file.with_name("bad.yaml")
    bad.write_text("version: 1\nroutes: 1\n")
    done = audit("-c", bad)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{bad}:2:9: routes: expected a list" in done.stderr
    assert audit("-c", file.with_name("none")).exit_code == 2
    assert audit("-c", file, "--fail-on", "some").exit_code == 2
    assert audit("-c", file, "--baseline", bad).exit_code == 2
    assert audit("-c", file, "--baseline", file.with_name("none")).exit_code == 2


def test_json(file: Path) -> None:
    """Findings with all that is known of them, and accepted ones with the reason."""
    file.write_text(TABLE + ACCEPT)
    found = json.loads(audit("-c", file, "--format", "json").stdout)
    (finding,) = found["findings"]
    assert finding["rule"] == "GW014"
    assert (finding["route"], finding["counterpart"]) == ("api", "")
    assert (finding["file"], finding["line"], finding["column"]) == (str(file), 9, 5)
    (accepted,) = found["accepted"]
    assert (accepted["rule"], accepted["why"]) == ("GW004", "w")
    assert accepted["until"] == "9999-12-31"


def test_annotations(file: Path) -> None:
    """Workflow commands of GitHub, with files relative to the folder."""
    first, second = audit("-c", file, "--format", "github").stdout.splitlines()
    assert first.startswith("::error file=my routes.yaml,line=8,col=5::GW004 web: ")
    assert second.startswith("::notice file=my routes.yaml,line=9,col=5::GW014 api: ")


TEXT = {"type": "string", "minLength": 1}
MESSAGE = {"type": "object", "required": ["text"], "properties": {"text": TEXT}}
COUNT = {"type": "integer", "minimum": 1}
LEVEL = {"enum": ["none", "note", "warning", "error"]}


def closed(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


SARIF = closed(
    "$schema version runs",
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs={
        "type": "array",
        "minItems": 1,
        "items": closed(
            "tool results columnKind",
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            tool=closed(
                "driver",
                driver=closed(
                    "name version rules",
                    name=TEXT,
                    version=TEXT,
                    rules={
                        "type": "array",
                        "uniqueItems": True,
                        "items": closed(
                            "id shortDescription defaultConfiguration properties",
                            id=TEXT,
                            shortDescription=MESSAGE,
                            defaultConfiguration=closed("level", level=LEVEL),
                            properties={"type": "object"},
                        ),
                    },
                ),
            ),
            results={
                "type": "array",
                "items": closed(
                    "ruleId ruleIndex level message locations partialFingerprints",
                    ruleId=TEXT,
                    ruleIndex={"type": "integer", "minimum": 0},
                    level=LEVEL,
                    message=MESSAGE,
                    locations={
                        "type": "array",
                        "items": closed(
                            "physicalLocation",
                            physicalLocation=closed(
                                "artifactLocation region",
                                artifactLocation=closed(
                                    "uri",
                                    uri={
                                        "type": "string",
                                        "pattern": "^[A-Za-z0-9._~/%-]+$",
                                    },
                                ),
                                region=closed(
                                    "startLine startColumn",
                                    startLine=COUNT,
                                    startColumn=COUNT,
                                ),
                            ),
                        ),
                    },
                    partialFingerprints={
                        "type": "object",
                        "minProperties": 1,
                        "additionalProperties": TEXT,
                    },
                ),
            },
        ),
    },
)
"""What we write of SARIF 2.1.0 (§3.13 to §3.52), and nothing else."""


def test_sarif(file: Path) -> None:
    """It has the form of SARIF 2.1.0; rules are those that results refer to."""
    log = json.loads(audit("-c", file, "--format", "sarif").stdout)
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    assert [(one["ruleId"], one["level"]) for one in run["results"]] == [
        ("GW004", "error"),
        ("GW014", "note"),
    ]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "my%20routes.yaml"
    assert [
        result["locations"][0]["physicalLocation"]["region"]
        for result in run["results"]
    ] == [{"startLine": 8, "startColumn": 5}, {"startLine": 9, "startColumn": 5}]


def test_sarif_without_findings(file: Path) -> None:
    """Is a whole log, too, so that a code host closes what it has."""
    file.write_text(TABLE.replace("protected: false", "protected: true"))
    done = audit("-c", file, "--format", "sarif", "--baseline", _all(file))
    log = json.loads(done.stdout)
    jsonschema.validate(log, SARIF)
    assert log["runs"][0]["results"] == []


def _all(file: Path) -> Path:
    baseline = file.with_name("all.json")
    baseline.write_text(audit("-c", file, "--format", "json").stdout)
    return baseline
