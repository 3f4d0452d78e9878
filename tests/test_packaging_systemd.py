"""The unit in deploy/systemd: systemd reads it, and it agrees with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gateway.cli import main
from gateway.config import GatewayConfig, LimitsConfig, ListenConfig
from gateway.process.stopping import longest_stop_s

UNIT = Path(__file__).parents[1] / "deploy" / "systemd" / "gateway.service"
SOCKET = UNIT.with_suffix(".socket")
PROGRAM = "/opt/gateway/bin/gateway"
MOST_EXPOSED = 1.5
"""Of systemd's score from 0 (nothing allowed) to 10. Measured: 1.4."""


def values(key: str) -> list[str]:
    text = UNIT.read_text("utf-8")
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.fixture
def analyze(tmp_path: Path) -> tuple[str, Path]:
    """Return `systemd-analyze`, and the unit with a program that exists here."""
    if (program := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze isn't installed: Debian's package systemd has it")
    unit = tmp_path / UNIT.name
    text = UNIT.read_text("utf-8")
    unit.write_text(text.replace(PROGRAM, str(Path(sys.executable))), "utf-8")
    return program, unit


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_reads_the_unit(analyze: tuple[str, Path]) -> None:
    """Without an error or a warning."""
    program, unit = analyze
    done = run(program, "verify", "--man=no", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_reads_the_socket(analyze: tuple[str, Path]) -> None:
    """Beside the service that it starts."""
    program, unit = analyze
    sockets = unit.with_suffix(".socket")
    sockets.write_text(SOCKET.read_text("utf-8"), "utf-8")
    done = run(program, "verify", "--man=no", sockets, unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_socket_is_an_address_of_the_gateway() -> None:
    """As it is spelled in the file, so that the gateway takes it."""
    text = SOCKET.read_text("utf-8")
    for address in re.findall(r"^ListenStream=(.*)$", text, re.MULTILINE):
        assert ListenConfig(address=address).address == address


def test_systemd_finds_little_exposed(analyze: tuple[str, Path]) -> None:
    """The score of its sandbox; more is a right that somebody added."""
    program, unit = analyze
    done = run(program, "security", "--offline=true", "--no-pager", unit)
    score = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score is not None, done.stdout + done.stderr
    assert float(score[1]) <= MOST_EXPOSED


def test_systemd_waits_longer_than_a_stop_takes() -> None:
    """And a worker has the descriptors that its clients take."""
    (timeout,) = values("TimeoutStopSec")
    assert float(timeout) > longest_stop_s(GatewayConfig())
    (descriptors,) = values("LimitNOFILE")
    assert int(descriptors) > 2 * LimitsConfig().max_connections


def test_the_commands_and_variables_exist() -> None:
    """Each command is the gateway's; each variable is one of an option of `serve`."""
    for line in (*values("ExecStart"), *values("ExecReload")[:1]):
        program, command = line.split()
        assert program == PROGRAM
        assert command in main.commands
    known = {
        param.envvar
        for param in main.commands["serve"].params
        if isinstance(param, click.Option)
    }
    for pair in " ".join(values("Environment")).split():
        name = pair.partition("=")[0]
        assert name in known or not name.startswith("GATEWAY_"), name


def test_it_is_never_given_up() -> None:
    """It restarts whatever the exit code, without a limit of attempts."""
    assert values("Restart") == ["always"]
    assert values("StartLimitIntervalSec") == ["0"]
