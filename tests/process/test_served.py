"""Settings with the sockets and certificates that workers start with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from tls_rig import Authority

from gateway.config import ListenConfig
from gateway.process.listening import BoundListen, close_listens, open_listens
from gateway.process.served import served
from gateway.settings import Settings, load
from gateway.tls import BadTls


def settings(tmp_path: Path, listen: Any) -> Settings:
    facts = {
        "version": 1,
        "gateway": {"listen": listen},
        "supertokens": {"connection_uri": "http://core:3567", "recipes": {}},
        "services": {"up": {"targets": ["http://up:80"]}},
        "routes": [{"path": "/", "service": "up"}],
    }
    path = tmp_path / "routes.yaml"
    path.write_text(yaml.safe_dump(facts), encoding="utf-8")
    return load(path, environ={})


@contextmanager
def opened(*items: str) -> Iterator[list[BoundListen]]:
    configs = [ListenConfig.model_validate({"address": item}) for item in items]
    listens = [*open_listens(configs, 1)]
    try:
        yield listens
    finally:
        close_listens(listens)


def test_all_settings_stay(tmp_path: Path) -> None:
    """The sockets come with the settings, and there are no certificates without TLS."""
    loaded = settings(tmp_path, "127.0.0.1:0")
    with opened("127.0.0.1:0") as listens:
        result = served(loaded, listens, is_overridden=False)
        assert [each.sockets for each in result.listens] == [listens[0].sockets]
    assert result.stores == ()
    for each in fields(Settings):
        assert getattr(result, each.name) is getattr(loaded, each.name)


@pytest.mark.parametrize("is_overridden", [False, True])
def test_what_the_file_says_of_an_address(tmp_path: Path, is_overridden: bool) -> None:
    """A reload may add TLS to an address that is open, unless `--listen` gave it."""
    pair = Authority(tmp_path).issue("a.test")
    tls = {"certificates": [pair.keys]}
    loaded = settings(tmp_path, [{"address": "127.0.0.1:0", "tls": tls}])
    with opened("127.0.0.1:0") as listens:
        result = served(loaded, listens, is_overridden=is_overridden)
    assert len(result.stores) == (0 if is_overridden else 1)


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    """They refuse the file before any worker starts."""
    pair = Authority(tmp_path).issue("a.test")
    tls = {"certificates": [pair.keys]}
    loaded = settings(tmp_path, [{"address": "127.0.0.1:0", "tls": tls}])
    pair.key.unlink()
    with opened("127.0.0.1:0") as listens, pytest.raises(BadTls):
        served(loaded, listens, is_overridden=False)
