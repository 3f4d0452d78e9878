"""What the supervisor knows of a loaded file, and which loads may share keys."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.process.loaded import loaded_file, sdk_digest
from gateway.settings import Settings, load

Load = Callable[..., Settings]


@pytest.fixture
def load_with(tmp_path: Path) -> Load:
    """Load a file with these keys of `gateway` and `supertokens`."""

    def load_with(gateway: Any = None, **supertokens: Any) -> Settings:
        facts = {
            "version": 1,
            "gateway": gateway or {},
            "supertokens": {
                "connection_uri": "http://core:3567",
                "recipes": {},
                **supertokens,
            },
            "services": {
                "up": {
                    "targets": ["http://up:80"],
                    "health": {"active": {"path": "/healthz"}},
                }
            },
            "routes": [{"path": "/", "service": "up"}],
        }
        path = tmp_path / "routes.yaml"
        path.write_text(yaml.safe_dump(facts), encoding="utf-8")
        return load(path, environ={})

    return load_with


@pytest.mark.parametrize(
    ("keys", "fact", "value"),
    [
        ({"drain_timeout": "9s"}, "drain_s", 9),
        ({"websocket_drain": "10m"}, "websocket_drain_s", 600),
        ({"shutdown_delay": "5s"}, "shutdown_delay_s", 5),
        ({}, "shutdown_delay_s", 0),
        ({"pidfile": "/run/gateway.pid"}, "pidfile", "/run/gateway.pid"),
        ({"probes": {"listen": "127.0.0.1:9902"}}, "probes", "127.0.0.1:9902"),
        ({"probes": {"startup_timeout": "7s"}}, "startup_timeout_s", 7),
        ({"listen": "127.0.0.1:1"}, "listen", [("127.0.0.1:1", "0660", None)]),
    ],
)
def test_facts_of_the_gateway(
    load_with: Load, keys: dict[str, Any], fact: str, value: object
) -> None:
    """Each key reaches the plan, in seconds and with its default."""
    known = loaded_file(3, load_with(keys), {"a": "b"})
    assert known.generation == 3
    assert known.description == {"a": "b"}
    assert getattr(known, fact) == value


def test_checks_of_services(load_with: Load) -> None:
    (check,) = loaded_file(1, load_with(), {}).checks
    assert (check.service, check.targets) == ("up", ("http://up:80",))


@pytest.mark.parametrize(
    ("changes", "may_share"),
    [
        ({}, True),
        ({"keys": {"refresh_interval": "9s"}}, True),
        ({"core": {"timeout": "9s"}}, True),
        ({"connection_uri": "http://another:3567"}, False),
        ({"api_key": "k" * 20}, False),
    ],
)
def test_keys_pass_only_between_equal_settings_of_the_sdk(
    load_with: Load, changes: dict[str, Any], may_share: bool
) -> None:
    """Keys of another core must not judge tokens. Time-outs say nothing about them."""
    before, after = load_with(), load_with(**changes)
    assert (sdk_digest(before) == sdk_digest(after)) is may_share
    facts = loaded_file(1, before, {}), loaded_file(2, after, {})
    assert (facts[0].sdk == facts[1].sdk) is may_share


def test_a_digest_is_the_same_in_another_process(load_with: Load) -> None:
    """Sets have another order there. An upgrade passes keys by the digest."""
    settings = load_with(api_key="k" * 20)
    program = (
        "import sys; from gateway.process.loaded import sdk_digest;"
        "from gateway.settings import load;"
        "print(sdk_digest(load(sys.argv[1], environ={})))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, str(settings.path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert digests == {sdk_digest(settings)}
