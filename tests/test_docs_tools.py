"""docs/tools.md has the rules of the code, and real outputs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.audit import RULES
from gateway.audit.report import ACCEPTANCE
from gateway.cli import audit, main

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tools.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match[1], match[2]) for match in FENCE.finditer(PAGE)]
TABLE = next(text for language, text in BLOCKS if language == "yml")
CONSOLE = [text for language, text in BLOCKS if language == "console"]


def test_the_rules_are_those_of_the_code() -> None:
    """Code, severity and title of each."""
    rows = re.findall(r"^\| (GW\d+) \| (\w+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (rule.id, str(rule.severity), rule.title) for rule in (*RULES, ACCEPTANCE)
    ]


@pytest.mark.parametrize(
    "text", [pytest.param(one, id=one.partition("\n")[0]) for one in CONSOLE]
)
def test_outputs_are_real(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command prints what the page says, for the table of the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audit, "today", lambda: "2026-11-28")
    Path("shop.yaml").write_text(TABLE)
    command, _, output = text.partition("\n")
    prompt, program, *arguments = shlex.split(command)
    assert (prompt, program) == ("$", "gateway")
    assert CliRunner().invoke(main, arguments).stdout == output


def test_the_keys_of_routes_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key of `gateway routes --json`, and no other."""
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text(TABLE)
    done = CliRunner().invoke(main, ["routes", "-c", "shop.yaml", "--json"])
    section = PAGE.partition("## Everything in effect")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    listed = re.findall(r"`(\w+)`", " ".join(cells))
    for one in json.loads(done.stdout):
        assert sorted(one) == sorted(listed)


def test_the_inputs_of_the_action_are_listed() -> None:
    """With their defaults."""
    action = yaml.safe_load((ROOT / "deploy" / "ci" / "action.yml").read_text("utf-8"))
    section = PAGE.partition("## On a pull request")[2]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|", section, re.MULTILINE)
    assert [name for name, _ in rows] == list(action["inputs"])
    for name, default in rows:
        if default.startswith("`"):
            assert default == f"`{action['inputs'][name]['default']}`"
