"""The Redis server: what keeps a machine from using it, TLS, and how long it takes."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from redis_server import needs_redis, redis_running
from tls_rig import Authority

from gateway.config import SharedConfig, StoreAddress
from gateway.shared import store
from gateway.shared.place import StorePlace


def place(port: int, **address: object) -> StorePlace:
    where = StoreAddress(host="127.0.0.1", port=port)
    return StorePlace(
        address=replace(where, **address),  # type: ignore[arg-type]
        key="k",
        ca_file=None,
        grace_s=None,
    )


def test_what_is_missing_is_a_problem_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package, and the file of authorities. Without the section, nothing is."""
    assert not [*store.check(None)]
    shared = SharedConfig(redis="rediss://r")
    assert not [*store.check(shared)]
    bad = shared.model_copy(update={"ca_file": str(tmp_path / "none.pem")})
    (finding,) = store.check(bad)
    assert finding.loc == ("gateway", "shared", "ca_file")
    monkeypatch.setattr(store, "find_spec", lambda name: None)
    (finding,) = store.check(shared)
    assert finding.loc == ("gateway", "shared", "redis")
    assert "pip install 'supertokens-gateway[redis]'" in finding.hint


@needs_redis
async def test_it_is_asked_and_not_changed(tmp_path: Path) -> None:
    async with redis_running(tmp_path) as redis:
        assert await store.ask(place(redis.port), timeout_s=9.0) is None
        assert await redis.do("DBSIZE") == b":0\r\n"


@needs_redis
async def test_a_hung_server_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    async with redis_running(tmp_path) as redis:
        redis.hang()
        trouble = await store.ask(place(redis.port), timeout_s=0.2)
        assert trouble == "it doesn't answer"
        redis.resume()


@needs_redis
async def test_tls_is_verified(tmp_path: Path) -> None:
    """By the authority that is named; another one's certificate is refused.

    So is a name that isn't in the certificate, and a server without TLS.
    """
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    pair = authority.issue("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    async with redis_running(
        tmp_path,
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key)),
        *("--tls-ca-cert-file", str(authority.file)),
    ) as redis:
        trusting = replace(place(port, is_tls=True), ca_file=str(authority.file))
        troubles = {
            "trusted": await store.ask(trusting, timeout_s=9.0),
            "other": await store.ask(
                replace(trusting, ca_file=str(other.file)), timeout_s=9.0
            ),
            "name": await store.ask(
                replace(
                    trusting,
                    address=StoreAddress(host="localhost", port=port, is_tls=True),
                ),
                timeout_s=9.0,
            ),
            "plain": await store.ask(place(redis.port, is_tls=True), timeout_s=9.0),
        }
    assert troubles.pop("trusted") is None
    refused = "its certificate is refused: "
    assert str(troubles["other"]).startswith(refused)
    assert str(troubles["name"]).startswith(refused)
    assert troubles["plain"] is not None
