"""Writes docs/security-cases.md: `PYTHONPATH=tests python -m corpus`."""

from pathlib import Path

from corpus.cases import FOLDER, load
from corpus.table import render

target: Path = FOLDER.parent.parent / "docs" / "security-cases.md"
target.parent.mkdir(exist_ok=True)
target.write_text(render(load()))
