"""Real upstreams that read paths loosely: Express and Koa, as their defaults are.

    async with lenient("express") as upstream:
        ... upstream.port ...

`/Admin` and `/admin/` are their `/admin`, too. Every reply names the handler that
served it in X-Handler (`admin`, `users`, `secret`, `refund` or `other`), and the
request's target as it came in X-Url.

npm installs them once per machine, into the folder for temporary files.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

SOURCE = Path(__file__).with_name("lenient")
FILES = ("package.json", "package-lock.json", "server.mjs")

REMEDY = "install Node.js 18 or newer with npm (on Debian: apt install nodejs npm)"

INSTALL_S = 300.0
DEADLINE_S = 30.0
"""For a process to start or end, on a machine that does other things, too."""


@dataclass(frozen=True)
class Upstream:
    """An upstream that listens."""

    host: str
    port: int


@asynccontextmanager
async def lenient(app: Literal["express", "koa"]) -> AsyncIterator[Upstream]:
    """Run an upstream for the block; it is gone afterwards, whatever happened."""
    node = _program("node")
    folder = await installed()
    process = await asyncio.create_subprocess_exec(
        node,
        "server.mjs",
        app,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            said = await process.stdout.readline()
        assert said, f"{app} did not start; its fault stands above. {REMEDY}"
        yield Upstream("127.0.0.1", json.loads(said)["port"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(DEADLINE_S):
            await process.communicate()


async def installed(below: Path | None = None) -> Path:
    """Return a folder with the server and all that it needs, made when missing."""
    parent = Path(tempfile.gettempdir()) if below is None else below
    hashed = hashlib.sha256()
    for name in FILES:
        hashed.update((SOURCE / name).read_bytes())
    # Whose folder it is stands in the name: another user's might not be readable.
    name = f"supertokens-gateway-lenient-{os.getuid()}-{hashed.hexdigest()[:16]}"
    folder = parent / name
    if _is_ours(folder):
        return folder
    npm = _program("npm")
    made = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=parent))
    try:
        for file in FILES:
            shutil.copy(SOURCE / file, made / file)
        await _npm_ci(npm, made)
        _keep(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _is_ours(folder: Path) -> bool:
    """Say whether it is there, and made by this user: its code will be run."""
    return folder.is_dir() and folder.stat().st_uid == os.getuid()


def _keep(made: Path, folder: Path) -> None:
    """Give *made* its lasting name; who loses a race finds the winner's, the same."""
    with contextlib.suppress(OSError):
        made.rename(folder)
    if not _is_ours(folder):
        pytest.fail(f"{folder} can't be made: something else has its name")


async def _npm_ci(npm: str, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        npm,
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(INSTALL_S):
            said, _ = await process.communicate()
    except TimeoutError:
        pytest.fail(
            f"npm ci took longer than {INSTALL_S:.0f} s: is its registry there?"
        )
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        text = said.decode("utf-8", "replace").strip()
        pytest.fail(f"npm ci failed; {REMEDY}, and let it reach its registry\n{text}")


def _environment() -> dict[str, str]:
    return {**os.environ, "NODE_ENV": "test", "NODE_OPTIONS": ""}


def _program(name: str) -> str:
    """Return where a program is; fail the test, with the remedy, when it is nowhere."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"`{name}` is not installed: {REMEDY}")
    return found
