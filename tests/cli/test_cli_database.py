"""How commands report that the embedded core can't create its database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = "from gateway.cli import main; main()"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["-c", COMMAND, "core", "--port", "0", "--database", "file/core.sqlite"],
            "can't create the core's database file/core.sqlite: ",
        ),
        (
            ["-m", "gateway.dev.services", "file/core.sqlite", "{}"],
            '{"failed": "can\'t create the core\'s database file/core.sqlite: ',
        ),
    ],
    ids=["core", "the child of dev"],
)
def test_a_database_that_cant_be_created_is_one_line(
    command: list[str], message: str, tmp_path: Path
) -> None:
    """A database whose directory can't be created is one line, without a traceback."""
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith(message)
