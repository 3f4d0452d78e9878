"""A file database: restart, two processes' worth of cores, file modes, apps."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from dev.core.core_client import CoreClient, access, refresh, unique_email

from gateway.dev.core import (
    Core,
    CoreSettings,
    StoreError,
    serve,
    serve_in_thread,
    store,
)


async def test_keys_and_sessions_survive_a_restart(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Same keys, same users, and tokens of before go on, sealed ones too."""
    settings = CoreSettings(database=tmp_path / "core.db")
    email = unique_email()
    async with serve(settings) as running:
        core = CoreClient(http, running.url)
        keys = (await core.call("GET", "/.well-known/jwks.json")).json
        user_id = await core.sign_up(email)
        created = await core.create(user_id, payload={"x": 1})
        child = await core.refresh(refresh(created))
    async with serve(settings) as running:
        core = CoreClient(http, running.url)
        assert (await core.call("GET", "/.well-known/jwks.json")).json == keys
        assert (await core.verify(access(created)))["status"] == "OK"
        verified = await core.verify(access(child), check_database=True)
        assert verified["session"]["userDataInJWT"] == {"x": 1}
        assert (await core.refresh(refresh(child)))["status"] == "OK"
        stolen = await core.refresh(refresh(created))
        assert stolen["status"] == "TOKEN_THEFT_DETECTED"
        body = {"email": email, "password": "s3cret!"}
        signed = await core.post("/public/recipe/signin", body)
        assert signed["recipeUserId"] == user_id


async def test_two_cores_on_one_file_are_one(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """What one rotates, signs or promotes the other knows."""
    settings = CoreSettings(database=tmp_path / "core.db")
    async with serve(settings) as one, serve(settings) as other:
        here, there = CoreClient(http, one.url), CoreClient(http, other.url)
        created = await here.create()
        await one.core.rotate_keys()
        child = await here.refresh(refresh(created))
        # The kid is new to the other one: it reads the keys again.
        assert (await there.verify(access(child)))["status"] == "OK"
        stolen = await here.refresh(refresh(created))
        assert stolen["status"] == "TOKEN_THEFT_DETECTED"


async def test_cores_racing_on_one_file_leave_one_lineage(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Compare and promote hold the file's lock: children race in two threads."""
    settings = CoreSettings(database=tmp_path / "core.db")
    with serve_in_thread(settings) as one, serve_in_thread(settings) as other:
        cores = [CoreClient(http, one.url), CoreClient(http, other.url)]
        for _ in range(5):
            r0 = refresh(await cores[0].create())
            children = [await cores[n % 2].refresh(r0) for n in range(8)]
            raced = await asyncio.gather(
                *(
                    cores[n % 2].refresh(refresh(child))
                    for n, child in enumerate(children)
                )
            )
            statuses = sorted(answer["status"] for answer in raced)
            assert statuses == ["OK"] + ["TOKEN_THEFT_DETECTED"] * 7


def test_transaction_takes_the_lock_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what was read inside is still so when it's written."""
    monkeypatch.setattr(store, "_LOCK_TIMEOUT_S", 0)
    one, other = (store.Store(tmp_path / "core.db") for _ in range(2))
    with (
        one.transaction(),
        pytest.raises(sqlite3.OperationalError, match="locked"),
        other.transaction(),
    ):
        pass
    with other.transaction():
        pass
    one.close()
    other.close()


def test_files_are_private(tmp_path: Path) -> None:
    """Keys are in there: 0600 for the files, 0700 for a folder made for them."""
    path = tmp_path / "new" / "core.db"
    core = Core(CoreSettings(database=path, apps=("other",)))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = list(path.parent.iterdir())
    assert {file.name for file in files} >= {"core.db", "core-other.db"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    core.close()


def test_open_file_is_closed_up(tmp_path: Path) -> None:
    """A file that others may read is theirs no more; its folder is left alone."""
    path = tmp_path / "core.db"
    path.touch(mode=0o644)
    tmp_path.chmod(0o755)
    Core(CoreSettings(database=path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_database_of_another_version_is_refused(tmp_path: Path) -> None:
    """It says what to do, and leaves the file as it is."""
    path = tmp_path / "core.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match=r"schema version 99.*move the file away"):
        Core(CoreSettings(database=path))


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Nothing is overwritten."""
    path = tmp_path / "core.db"
    path.write_bytes(b"precious" * 1000)
    with pytest.raises(StoreError, match="can't open"):
        Core(CoreSettings(database=path))
    assert path.read_bytes() == b"precious" * 1000


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """The path is named."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can't create"):
        Core(CoreSettings(database=tmp_path / "file" / "core.db"))


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Return the list of every database connection that a store makes from now on."""
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remember(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        made.append(connect(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    return made


def is_closed(connection: sqlite3.Connection) -> bool:
    """Say whether a connection refuses to work because it's closed."""
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def another_version(path: Path) -> None:
    """Write a database that another version of the core would have made."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def no_database(path: Path) -> None:
    """Write a file that SQLite can't read."""
    path.write_bytes(b"precious" * 1000)


@pytest.mark.parametrize("spoil", [another_version, no_database])
@pytest.mark.parametrize(("spoiled", "opened"), [("core.db", 1), ("core-other.db", 2)])
def test_core_that_cannot_be_made_leaves_no_database_open(
    tmp_path: Path,
    connections: list[sqlite3.Connection],
    spoil: Callable[[Path], None],
    spoiled: str,
    opened: int,
) -> None:
    """Neither the one that's refused, nor those of the apps before it."""
    spoil(tmp_path / spoiled)
    connections.clear()
    with pytest.raises(StoreError, match=spoiled):
        Core(CoreSettings(database=tmp_path / "core.db", apps=("other",)))
    assert [is_closed(connection) for connection in connections] == [True] * opened


async def test_core_that_cannot_be_served_leaves_no_database_open(
    connections: list[sqlite3.Connection],
) -> None:
    """A port that's taken closes the core that was made for it, and no other one."""
    async with serve() as running:
        with pytest.raises(OSError, match=str(running.port)):
            async with serve(port=running.port):
                pass
        assert [is_closed(connection) for connection in connections] == [False, True]
    assert [is_closed(connection) for connection in connections] == [True, True]


@pytest.mark.parametrize("on_disk", [False, True])
async def test_apps_are_islands(
    tmp_path: Path, http: aiohttp.ClientSession, on_disk: bool
) -> None:
    """Users, sessions and keys of one app are nothing to another."""
    database = tmp_path / "core.db" if on_disk else ":memory:"
    async with serve(CoreSettings(database=database, apps=("shop",))) as running:
        public = CoreClient(http, running.url)
        shop = CoreClient(http, f"{running.url}/appid-shop")
        email = unique_email()
        assert await public.sign_up(email) != await shop.sign_up(email)
        created = await shop.create()
        assert (await shop.verify(access(created)))["status"] == "OK"
        foreign = await public.verify(access(created))
        assert foreign["status"] == "TRY_REFRESH_TOKEN"
        foreign = await public.refresh(refresh(created))
        assert foreign["status"] == "UNAUTHORISED"
        sets = [
            (await client.call("GET", "/.well-known/jwks.json")).json["keys"]
            for client in (public, shop)
        ]
        assert not {key["n"] for key in sets[0]} & {key["n"] for key in sets[1]}
        kid = await running.core.rotate_keys(app_id="shop")
        fresh = await shop.call("GET", "/.well-known/jwks.json")
        assert fresh.json["keys"][0]["kid"] == kid
