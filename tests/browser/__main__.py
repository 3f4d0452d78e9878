"""`python -m browser`: runs the scenarios in Chromium (`make test-browser`).

Needs Chromium, Node.js and, for the settings with https, Caddy. The npm packages are
installed by `npm ci` in this folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from browser.rig import API, PAGES, SITE, Setting, rig

HERE = Path(__file__).parent
QUICK = (Setting("cookie"), Setting("header"))
"""The settings of CI, each with the scenarios that are marked `quick`."""
ALL = (
    *QUICK,
    Setting("cookie", "VIA_TOKEN"),
    Setting("cookie", "VIA_CUSTOM_HEADER"),
    Setting("cookie", https=True),
    Setting("cookie", "VIA_TOKEN", https=True),
    Setting("header", https=True),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_LINES = 15
"""Lines of the gateway's log that a failure shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios; return 0 if all pass."""
    parser = argparse.ArgumentParser(prog="python -m browser")
    parser.add_argument("--quick", action="store_true", help="the selection of CI")
    parser.add_argument("-k", default="", metavar="WORDS", help="scenarios by name")
    parser.add_argument("-s", default="", metavar="WORDS", help="settings by name")
    options = parser.parse_args(arguments)
    settings = [
        setting
        for setting in (QUICK if options.quick else ALL)
        if options.s in str(setting)
    ]
    # A stream that a scenario leaves is an error for the service's server.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-browser-") as folder:
        pages = Path(folder) / "pages"
        _bundle(pages)
        facts = {
            "browser": browser(),
            "quick": options.quick,
            "words": options.k,
            "names": [SITE, API],
        }
        failed = []
        for number, setting in enumerate(settings):
            place = Path(folder) / str(number)
            place.mkdir()
            if asyncio.run(_run(setting, pages, place, facts)):
                failed.append(setting)
    print(f"{len(settings)} settings in {time.monotonic() - started:.0f} s", flush=True)
    for setting in failed:
        print(f"failed: {setting}", flush=True)
    return 1 if failed or not settings else 0


def browser() -> str:
    """Return the path of Chromium.

    Raises:
        SystemExit: it isn't installed.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit("Chromium is missing (on Debian: apt install chromium)")
    return found


def _bundle(pages: Path) -> None:
    """Make one script of each page and the libraries that it imports."""
    sources = [
        next((HERE / "pages").glob(f"{name}.js*")).relative_to(HERE) for name in PAGES
    ]
    subprocess.run(
        [
            HERE / "node_modules" / ".bin" / "esbuild",
            *sources,
            *("--bundle", "--format=iife", "--log-level=warning"),
            '--define:process.env.NODE_ENV="production"',
            *("--define:global=window", f"--outdir={pages}"),
        ],
        cwd=HERE,
        check=True,
    )


async def _run(
    setting: Setting, pages: Path, folder: Path, options: dict[str, object]
) -> bool:
    """Run the scenarios with one setting; return whether one has failed."""
    print(f"# {setting}", flush=True)
    async with rig(setting, pages, folder) as running:
        facts = {
            **options,
            "site": running.site,
            "api": running.api,
            "control": running.control,
            "mode": setting.mode,
        }
        node = await asyncio.create_subprocess_exec(
            "node",
            HERE / "scenarios.mjs",
            cwd=HERE,
            env={**os.environ, "RIG": json.dumps(facts)},
            stdin=subprocess.DEVNULL,
        )
        try:
            failed = await node.wait() != 0
        finally:
            if node.returncode is None:
                node.kill()
                await node.wait()
        if failed:
            output = running.gateway.err + running.gateway.out
            for line in output.decode("utf-8", "replace").splitlines()[-_LINES:]:
                print(f"  gateway: {line}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
