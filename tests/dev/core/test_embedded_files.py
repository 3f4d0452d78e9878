"""The database file: restart, two cores on one file, file modes, apps."""

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
    """Keys, users and sessions are stored; access and refresh tokens stay valid."""
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
        theft = await core.refresh(refresh(created))
        assert theft["status"] == "TOKEN_THEFT_DETECTED"
        body = {"email": email, "password": "s3cret!"}
        signed = await core.post("/public/recipe/signin", body)
        assert signed["recipeUserId"] == user_id


async def test_two_cores_on_one_file_share_their_state(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Key rotation, sessions and promotion of one core are visible to the other."""
    settings = CoreSettings(database=tmp_path / "core.db")
    async with serve(settings) as one, serve(settings) as other:
        here, there = CoreClient(http, one.url), CoreClient(http, other.url)
        created = await here.create()
        await one.core.rotate_keys()
        child = await here.refresh(refresh(created))
        # The `kid` is unknown to the other core, so it reads the keys again.
        assert (await there.verify(access(child)))["status"] == "OK"
        theft = await here.refresh(refresh(created))
        assert theft["status"] == "TOKEN_THEFT_DETECTED"


async def test_of_children_racing_on_one_file_exactly_one_survives(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Compare and promote hold the file's lock: of eight children one succeeds."""
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
            statuses = sorted(response["status"] for response in raced)
            assert statuses == ["OK"] + ["TOKEN_THEFT_DETECTED"] * 7


def test_transaction_takes_the_lock_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other transaction can start, so nothing changes between read and write."""
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
    """Database files have mode 0600, and a folder created for them 0700."""
    path = tmp_path / "new" / "core.db"
    core = Core(CoreSettings(database=path, apps=("other",)))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = list(path.parent.iterdir())
    assert {file.name for file in files} >= {"core.db", "core-other.db"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    core.close()


def test_file_that_others_may_read_becomes_private(tmp_path: Path) -> None:
    """A database file of mode 0644 gets 0600; the mode of its folder is unchanged."""
    path = tmp_path / "core.db"
    path.touch(mode=0o644)
    tmp_path.chmod(0o755)
    Core(CoreSettings(database=path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_database_of_another_version_is_refused(tmp_path: Path) -> None:
    """The message names the schema version and the remedy."""
    path = tmp_path / "core.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match=r"schema version 99.*move the file away"):
        Core(CoreSettings(database=path))


async def test_database_of_an_older_version_is_kept(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """A file of version 1 gets the tables that it lacks, and keeps its users."""
    path = tmp_path / "core.db"
    settings = CoreSettings(database=path)
    async with serve(settings) as running:
        user_id = await CoreClient(http, running.url).sign_up()
    with sqlite3.connect(path) as db:
        db.executescript(
            "DROP TABLE dashboard_users; DROP TABLE dashboard_sessions;"
            "PRAGMA user_version = 1"
        )
    db.close()
    async with serve(settings) as running:
        core = CoreClient(http, running.url)
        assert (await core.get("/user/id", userId=user_id))["status"] == "OK"
        assert (await core.get("/recipe/dashboard/users"))["users"] == []


def test_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    """The core refuses the file and doesn't overwrite it."""
    path = tmp_path / "core.db"
    path.write_bytes(b"precious" * 1000)
    with pytest.raises(StoreError, match="can't open"):
        Core(CoreSettings(database=path))
    assert path.read_bytes() == b"precious" * 1000


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    """The error says that the folder can't be created."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can't create"):
        Core(CoreSettings(database=tmp_path / "file" / "core.db"))


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Return a list that grows by each SQLite connection that is opened."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remember(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    return opened


def is_closed(connection: sqlite3.Connection) -> bool:
    """Return whether a connection is closed."""
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def write_other_version(path: Path) -> None:
    """Write a database with the schema version of another core."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def write_non_database(path: Path) -> None:
    """Write a file that SQLite can't read."""
    path.write_bytes(b"precious" * 1000)


@pytest.mark.parametrize("spoil", [write_other_version, write_non_database])
@pytest.mark.parametrize(("spoiled", "opened"), [("core.db", 1), ("core-other.db", 2)])
def test_core_that_cannot_open_its_databases_closes_them_all(
    tmp_path: Path,
    connections: list[sqlite3.Connection],
    spoil: Callable[[Path], None],
    spoiled: str,
    opened: int,
) -> None:
    """The refused database is closed, and so are those of the apps before it."""
    spoil(tmp_path / spoiled)
    connections.clear()
    with pytest.raises(StoreError, match=spoiled):
        Core(CoreSettings(database=tmp_path / "core.db", apps=("other",)))
    assert [is_closed(connection) for connection in connections] == [True] * opened


async def test_core_that_cannot_be_served_closes_its_database(
    connections: list[sqlite3.Connection],
) -> None:
    """If the port is in use, the new core is closed and the running one isn't."""
    async with serve() as running:
        with pytest.raises(OSError, match=str(running.port)):
            async with serve(port=running.port):
                pass
        assert [is_closed(connection) for connection in connections] == [False, True]
    assert [is_closed(connection) for connection in connections] == [True, True]


@pytest.mark.parametrize("on_disk", [False, True])
async def test_apps_are_isolated(
    tmp_path: Path, http: aiohttp.ClientSession, on_disk: bool
) -> None:
    """An app has its own users, sessions and keys."""
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
