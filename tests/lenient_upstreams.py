"""Real upstreams that match paths loosely: Express and Koa with their defaults.

    async with lenient("express") as upstream:
        ... upstream.port ...

They take `/Admin` and `/admin/` for `/admin`. Every reply names the handler that served
it in X-Handler (`admin`, `users`, `secret`, `refund` or `other`), and the target of the
request in X-Url.

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
"""For a process to start or end, on a busy machine."""


@dataclass(frozen=True)
class Upstream:
    """The address of a running upstream."""

    host: str
    port: int


@asynccontextmanager
async def lenient(app: Literal["express", "koa"]) -> AsyncIterator[Upstream]:
    """Run an upstream for the block; its process is killed at the end."""
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
            line = await process.stdout.readline()
        assert line, f"{app} did not start; its error is above. {REMEDY}"
        yield Upstream("127.0.0.1", json.loads(line)["port"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(DEADLINE_S):
            await process.communicate()


async def installed(below: Path | None = None) -> Path:
    """Return a folder with the server and its packages; install it if missing."""
    parent = Path(tempfile.gettempdir()) if below is None else below
    hashed = hashlib.sha256()
    for name in FILES:
        hashed.update((SOURCE / name).read_bytes())
    # The name has the user's id: another user's folder might not be readable.
    name = f"supertokens-gateway-lenient-{os.getuid()}-{hashed.hexdigest()[:16]}"
    folder = parent / name
    if _is_ours(folder):
        return folder
    npm = _program("npm")
    temporary = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=parent))
    try:
        for file in FILES:
            shutil.copy(SOURCE / file, temporary / file)
        await _npm_ci(npm, temporary)
        _move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_ours(folder: Path) -> bool:
    """Return whether the folder exists and belongs to this user; its code is run."""
    return folder.is_dir() and folder.stat().st_uid == os.getuid()


def _move(temporary: Path, folder: Path) -> None:
    """Rename *temporary* to *folder*, unless another run has just done the same."""
    with contextlib.suppress(OSError):
        temporary.rename(folder)
    if not _is_ours(folder):
        pytest.fail(f"{folder} can't be created: something else has its name")


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
            output, _ = await process.communicate()
    except TimeoutError:
        pytest.fail(
            f"npm ci took longer than {INSTALL_S:.0f} s: is its registry reachable?"
        )
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        text = output.decode("utf-8", "replace").strip()
        pytest.fail(f"npm ci failed; {REMEDY}, and let it reach its registry\n{text}")


def _environment() -> dict[str, str]:
    return {**os.environ, "NODE_ENV": "test", "NODE_OPTIONS": ""}


def _program(name: str) -> str:
    """Return the path of a program; if it isn't installed, fail with the remedy."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"`{name}` is not installed: {REMEDY}")
    return path
