"""The lenient upstreams are there, and lenient: other tests rest on that."""

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
    """That's why they are called lenient; a path of its own is no handler's."""
    async with lenient(app) as upstream:
        found = {}
        for target in ("/admin", "/Admin", "/admin/", "/admin/users", "/admin.json"):
            reply = await ask(upstream.port, "GET", target)
            assert reply.one("X-Url") == target
            found[target] = (reply.one("X-Handler"), reply.body)
        refund = await ask(upstream.port, "POST", "/orders/1/Refund/", body=b"")
    assert found == {
        "/admin": ("admin", b"admin"),
        "/Admin": ("admin", b"admin"),
        "/admin/": ("admin", b"admin"),
        "/admin/users": ("users", b"users"),
        "/admin.json": ("other", b"other"),
    }
    assert refund.one("X-Handler") == "refund"


async def test_the_process_ends_with_the_block() -> None:
    """Nothing listens afterwards."""
    async with lenient("express") as upstream:
        pass
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(upstream.host, upstream.port)


def _names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


async def test_two_runs_install_at_once(tmp_path: Path) -> None:
    """Both have the same folder, whole; nothing else is left."""
    folders = await asyncio.gather(installed(tmp_path), installed(tmp_path))
    assert {folder.name for folder in folders} == _names(tmp_path)
    assert "express" in _names(folders[0] / "node_modules")


async def test_missing_programs_fail_and_name_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A skip would hide that nothing was tested."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=r"`npm` is .* apt install nodejs"):
        await installed(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"`node` is .* apt install nodejs"):
        await lenient("koa").__aenter__()


def test_the_lock_file_names_no_other_registry() -> None:
    """A mirror of somebody's machine would be unknown to every other."""
    lock = (SOURCE / "package-lock.json").read_text("utf-8")
    packages = json.loads(lock)["packages"]
    assert "node_modules/express" in packages
    for name, package in packages.items():
        place = package.get("resolved", NPM)  # left out: the registry that npm uses
        assert place.startswith(NPM), name
