"""Real fronts, with the configuration that `gateway front` prints.

Each cell of the table in docs/fronts.md is what a test has seen.
"""

from __future__ import annotations

import re
from pathlib import Path

import fronts_measured
import processes
import pytest
import wire
from fronts_under_test import CANT_REWRITE, STARTS, fronted, program

from gateway.dev.core import ThreadedCore

DOC = Path(__file__).parents[2] / "docs" / "fronts.md"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer: several programs start, and fronts wait for a hung gateway."""
    monkeypatch.setattr(wire, "DEADLINE_S", 60.0)
    monkeypatch.setattr(processes, "DEADLINE_S", 120.0)


def documented() -> dict[str, dict[str, str]]:
    """Return the table: front → column → cell."""
    text = DOC.read_text(encoding="utf-8")
    found = re.search(r"^\| front \|.*\n(\|.*\n)+", text, re.MULTILINE)
    assert found is not None
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in found[0].splitlines()
    )
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


@pytest.mark.parametrize("front", STARTS)
async def test_what_a_front_does(
    front: str,
    tmp_path: Path,
    shared_core: ThreadedCore,
) -> None:
    """The table says what was seen. Nothing that is refused reaches a service."""
    if program(front) is None:
        pytest.skip(f"{front} is not installed")
    async with fronted(front, tmp_path, shared_core.url) as stack:
        for check in fronts_measured.CHECKS:
            await check(stack)
        seen = {
            name: await measure(stack)
            for name, measure in fronts_measured.CELLS.items()
        }
        seen["outage"] = await fronts_measured.outage(stack)
    assert documented()[front] == seen


@pytest.mark.parametrize("front", [each for each in STARTS if each not in CANT_REWRITE])
async def test_the_path_that_was_judged(
    front: str,
    tmp_path: Path,
    shared_core: ThreadedCore,
) -> None:
    """With `gateway.decision.path: canonical`, a front forwards no other."""
    if program(front) is None:
        pytest.skip(f"{front} is not installed")
    url = shared_core.url
    async with fronted(front, tmp_path, url, path_mode="canonical") as stack:
        await fronts_measured.canonical_paths(stack)
