"""The lenient upstreams run, and match paths loosely, as other tests assume."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Literal

import pytest
from lenient_upstreams import SOURCE, installed, lenient
from wire import ask

NPM = "https://registry.npmjs.org/"


@pytest.mark.parametrize("app", ["express", "koa"])
async def test_spellings_reach_one_handler(app: Literal["express", "koa"]) -> None:
    """Case and a final slash make no difference; another path has another handler."""
    async with lenient(app) as upstream:
        handlers = {}
        for target in ("/admin", "/Admin", "/admin/", "/admin/users", "/admin.json"):
            reply = await ask(upstream.port, "GET", target)
            assert reply.one("X-Url") == target
            handlers[target] = (reply.one("X-Handler"), reply.body)
        refund = await ask(upstream.port, "POST", "/orders/1/Refund/", body=b"")
    assert handlers == {
        "/admin": ("admin", b"admin"),
        "/Admin": ("admin", b"admin"),
        "/admin/": ("admin", b"admin"),
        "/admin/users": ("users", b"users"),
        "/admin.json": ("other", b"other"),
    }
    assert refund.one("X-Handler") == "refund"


async def test_the_process_ends_with_the_block() -> None:
    """Its port refuses connections afterwards."""
    async with lenient("express") as upstream:
        pass
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(upstream.host, upstream.port)


def _names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


async def test_two_concurrent_installations(tmp_path: Path) -> None:
    """Both return the same complete folder, and leave nothing else behind."""
    folders = await asyncio.gather(installed(tmp_path), installed(tmp_path))
    assert {folder.name for folder in folders} == _names(tmp_path)
    assert "express" in _names(folders[0] / "node_modules")


async def test_missing_programs_fail_the_test_and_name_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test fails instead of being skipped, so that this is noticed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=r"`npm` is .* apt install nodejs"):
        await installed(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"`node` is .* apt install nodejs"):
        await lenient("koa").__aenter__()


def test_the_lock_file_names_no_other_registry() -> None:
    """A mirror that one machine is configured for can't be reached from others."""
    lock = (SOURCE / "package-lock.json").read_text("utf-8")
    packages = json.loads(lock)["packages"]
    assert "node_modules/express" in packages
    for name, package in packages.items():
        url = package.get("resolved", NPM)  # missing means npm's own registry
        assert url.startswith(NPM), name
