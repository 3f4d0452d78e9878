"""Whether the extra `grpc` is there is known before anything is served."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import DecisionConfig
from gateway.fronts import grpc_extra

ROUTES = """\
version: 1
gateway: {decision: {grpc: "127.0.0.1:9001"}}
services: {up: {targets: ["http://127.0.0.1:1"]}}
routes: [{path: /, service: up}]
"""


@pytest.mark.parametrize("missing", ["h2", "google.protobuf"])
def test_a_missing_package(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding names the key, and what to install."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        grpc_extra, "find_spec", lambda name: None if name == missing else found(name)
    )
    over_http = DecisionConfig(listen="127.0.0.1:0", endpoints=("ext-authz",))
    assert not [*grpc_extra.check(None), *grpc_extra.check(over_http)]
    (finding,) = grpc_extra.check(DecisionConfig(grpc="127.0.0.1:0"))
    assert finding.path == "gateway.decision.grpc"
    assert "pip install 'supertokens-gateway[grpc]'" in finding.hint


@pytest.mark.parametrize("command", ["check", "serve"])
def test_commands_refuse_to_start(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` and `serve` alike, with the line and the column."""
    monkeypatch.setattr(grpc_extra, "find_spec", lambda _name: None)
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES, encoding="utf-8")
    done = CliRunner().invoke(main, [command, "-c", str(path)])
    assert done.exit_code == 1
    assert "routes.yaml:2:" in done.output
    assert "supertokens-gateway[grpc]" in done.output
