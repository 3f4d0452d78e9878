"""The Python on which the gateway is measured: an optimised build.

A Python built without profile-guided optimisation is 20 to 40 % slower than the one in
the gateway's image. Most of pyenv's builds are such. Therefore the gateway (and the
FastAPI service of `auth_request`) gets a separate environment, made with an optimised
Python if one is found; BENCH_PYTHON names another.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_LEAST = (3, 11)
_NAMES = ("python3", *(f"python3.{minor}" for minor in range(14, 10, -1)))
_PLACES = ("/usr/local/bin", "/usr/bin")

_ASK = """
import json, sys, sysconfig
print(json.dumps({
    "path": sys.executable,
    "version": list(sys.version_info[:3]),
    "prefix": sys.base_prefix,
    "arguments": sysconfig.get_config_var("CONFIG_ARGS") or "",
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python that is installed."""

    path: str
    version: tuple[int, ...]
    prefix: str
    arguments: str
    """The arguments of its `configure`."""

    @property
    def is_optimised(self) -> bool:
        """True if it was built with profile-guided optimisation.

        `configure` was told so; or it is a distribution's, under /usr. Those build
        with it by their own rules (Debian: `profile-opt`), of which nothing is left
        in the result.
        """
        return "--enable-optimizations" in self.arguments or self.prefix == "/usr"

    def __str__(self) -> str:
        kind = "optimised" if self.is_optimised else "NOT optimised: 20 to 40 % slower"
        return f"Python {'.'.join(map(str, self.version))} ({kind})"


def choose() -> Interpreter:
    """Return BENCH_PYTHON, else the first optimised Python, else the running one.

    Raises:
        SystemExit: BENCH_PYTHON isn't Python 3.11 or newer.
    """
    if named := os.environ.get("BENCH_PYTHON"):
        found = ask(named)
        if found is None or found.version < _LEAST:
            raise SystemExit(f"BENCH_PYTHON: {named} isn't Python 3.11 or newer")
        return found
    own = ask(sys.executable)
    assert own is not None
    paths = [
        path
        for place in (None, *_PLACES)
        for name in _NAMES
        if (path := shutil.which(name, path=place))
    ]
    others = [found for path in dict.fromkeys(paths) if (found := ask(path))]
    for found in (own, *others):
        if found.is_optimised and found.version >= _LEAST:
            return found
    return own


def ask(path: str) -> Interpreter | None:
    """Return the version and build of the Python *path*, or None if it doesn't run."""
    try:
        process = subprocess.run([path, "-c", _ASK], capture_output=True, check=False)
        answer = json.loads(process.stdout)
    except (OSError, ValueError):
        return None
    return Interpreter(**{**answer, "version": tuple(answer["version"])})


def environment(home: Path, python: Interpreter, root: Path) -> Path:
    """Return the `bin` of an environment with the gateway, made when it is missing.

    It is made anew when it belongs to another Python, or the project's requirements
    have changed since.

    Raises:
        SystemExit: it can't be made; the reason is on standard error.
    """
    made_from = home / "made-from"
    wanted = f"{python.path}\n{(root / 'pyproject.toml').read_text()}"
    if made_from.exists() and made_from.read_text() == wanted:
        return home / "bin"
    print(f"making an environment with {python} …", file=sys.stderr)
    # Debian's Python has no pip for new environments: install from outside.
    venv = [python.path, "-m", "venv", "--clear", "--without-pip", str(home)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
    wants = ["fastapi", "uvicorn[standard]", "--editable", str(root)]
    install = [*pip, str(home / "bin" / "python"), "install", "--quiet", *wants]
    for command in (venv, install):
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(
                f"no environment with {python}: BENCH_PYTHON names another"
            )
    made_from.write_text(wanted)
    return home / "bin"
