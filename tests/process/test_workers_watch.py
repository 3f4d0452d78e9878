"""A gateway that watches its files, as real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from processes import DEADLINE_S, Process, command, hub_of, serving
from wire import ask

from gateway.dev.core import ThreadedCore
from gateway.settings import ConfigError, load

ROUTES = """\
version: 1
gateway: {listen: "127.0.0.1:0", watch: {interval: 100ms}}
supertokens: {connection_uri: "CORE", recipes: {emailpassword: {}}}
routes:
  - {path: /PATH, respond: {status: 204}, protected: false}
"""


@pytest.fixture
async def gateway(
    tmp_path: Path, st_core: ThreadedCore
) -> AsyncIterator[tuple[Process, int]]:
    """A gateway whose file is mounted as Kubernetes does, and its port."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        text = ROUTES.replace("CORE", st_core.url).replace("PATH", version)
        (tmp_path / version / "routes.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "routes.yaml").symlink_to("..data/routes.yaml")
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(
            command("serve", "-c", tmp_path / "routes.yaml", cwd=tmp_path)
        )
        yield process, await serving(process)


async def test_a_swapped_folder_is_loaded_and_a_broken_file_told_once(
    gateway: tuple[Process, int], tmp_path: Path
) -> None:
    """And the repaired one is loaded again. A new hub watches on."""
    process, port = gateway
    (tmp_path / "..tmp").symlink_to("v2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    await process.until_said(rb"route /v2 added, route /v1 removed")
    async with asyncio.timeout(DEADLINE_S):
        while (await ask(port, "GET", "/v2")).status != 204:
            pass

    file = tmp_path / "v2" / "routes.yaml"
    good = file.read_text()
    file.write_text("version: [\n")
    await process.until_said(rb"not reloaded")
    hub = await hub_of(process.child.pid)
    os.kill(hub, signal.SIGKILL)
    await process.until_said(rb"hub \(pid %d\) was ended by SIGKILL" % hub)

    # An editor replaces the file.
    (tmp_path / "new").write_text(good.replace("/v2", "/v3"))
    (tmp_path / "new").rename(file)
    await process.until_said(rb"route /v3 added, route /v2 removed")
    assert process.err.count(b"not reloaded") == 1


async def test_without_the_key_nothing_is_watched(
    gateway: tuple[Process, int], tmp_path: Path
) -> None:
    """A reload that removes the key ends it; a signal still reloads."""
    process, _ = gateway
    file = tmp_path / "v1" / "routes.yaml"
    text = file.read_text().replace(", watch: {interval: 100ms}", "")
    file.write_text(text)
    await process.until_said(rb"gateway.watch\S* (changed|removed)")
    file.write_text(text.replace("/v1", "/v4"))
    process.signal(signal.SIGHUP)
    await process.until_said(rb"route /v4 added")
    assert process.err.count(b"reloaded") == 2


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ("50ms", "gateway.watch.interval: this is less than 100 ms. Write 1s"),
        ("soon", "gateway.watch.interval: expected a duration such as 3s"),
        ("0", "gateway.watch.interval: must be more than 0"),
    ],
)
def test_a_bad_interval_is_refused_with_its_place(
    tmp_path: Path, interval: str, message: str
) -> None:
    """With line and column."""
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES.replace("CORE", "http://c").replace("100ms", interval))
    with pytest.raises(ConfigError) as error:
        load(file, {})
    (problem,) = error.value.problems
    assert str(problem).startswith(f"{file}:2:")
    assert message in str(problem)
