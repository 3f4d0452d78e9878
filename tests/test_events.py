"""The events of the gateway: code, documents and uses are the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from gateway.events import RuntimeEvent
from gateway.observe import Origin, runtime_line

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for path in sorted((ROOT / "gateway").rglob("*.py"))
    if path.name != "events.py"
]
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| [^|]+ \|([^|]*)\|$", re.MULTILINE)


def test_the_documented_events_are_those_of_the_code() -> None:
    """docs/operations.md has each event with its level and facts, and no other one."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.partition("\n## Messages on standard error\n")[2].partition("\n## ")[
        0
    ]
    documented = {
        code: (level, tuple(re.findall(r"`(\w+)`", facts)))
        for code, level, facts in _ROW.findall(section)
    }
    assert documented == {
        event.code: (event.severity, event.fact_names) for event in RuntimeEvent
    }


def given_facts() -> Iterator[tuple[str, str, set[str]]]:
    """Yield each use of an event in a call: file, name of the event, facts given."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            match node.args[0]:
                case ast.Attribute(value=ast.Name(id="RuntimeEvent"), attr=name):
                    names = {word.arg for word in node.keywords if word.arg}
                    for part in node.args:
                        if isinstance(part, ast.Dict):
                            names |= {
                                str(key.value)
                                for key in part.keys
                                if isinstance(key, ast.Constant)
                            }
                    yield path.name, name, names - {"generation"}
                case _:
                    pass


def test_events_have_the_facts_that_they_declare() -> None:
    """Each event is used, and no use gives a fact that isn't declared."""
    for file, name, facts in given_facts():
        assert facts <= set(RuntimeEvent[name].fact_names), file
    sources = "".join(path.read_text("utf-8") for path in SOURCES)
    for event in RuntimeEvent:
        assert f"RuntimeEvent.{event.name}" in sources, "nothing reports it"


def test_facts_hide_no_common_field() -> None:
    """A fact has no name that every line has."""
    line = runtime_line(Origin(form="json"), 0.0, RuntimeEvent.READY, "", {}, "trace")
    common = set(re.findall(r'"(\w+)":', line)) - {"generation"}
    for event in RuntimeEvent:
        assert not common & set(event.fact_names)
    assert len({event.code for event in RuntimeEvent}) == len(RuntimeEvent)
