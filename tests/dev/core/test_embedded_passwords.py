"""Passwords of the embedded core, and what their hashes cost."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from dev.core.core_client import CoreClient

from gateway.dev.core import CoreSettings, serve
from gateway.dev.core.passwords import REAL_COST, hash_password, is_password

SALT = b"0123456789abcdef"


@pytest.mark.parametrize("cost", [12, REAL_COST])
async def test_a_hash_is_of_one_password(cost: int) -> None:
    """A hash of any cost is compared by its own cost."""
    stored = await hash_password("passw0rd", salt=SALT, cost=cost)
    assert await is_password("passw0rd", stored=stored)
    assert not await is_password("passw0rd2", stored=stored)


async def test_passwords_outlive_a_change_of_the_cost(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """A user signs in whatever hashing costs when the core is started again."""
    for real in (False, True, False):
        settings = CoreSettings(database=tmp_path / "core.sqlite", real_hashing=real)
        async with serve(settings) as running:
            core = CoreClient(http, running.url)
            await core.call(
                "POST",
                "/recipe/signup",
                {"email": f"{real}@example.com", "password": "passw0rd"},
            )
            reply = await core.call(
                "POST",
                "/recipe/signin",
                {"email": "false@example.com", "password": "passw0rd"},
            )
            assert reply.json["status"] == "OK"
