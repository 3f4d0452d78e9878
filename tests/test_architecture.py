"""The rooms of docs/architecture.md: who may import what, held by reading the imports.

The tables are the rule. A new module needs a line in ROOMS before it passes.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "gateway"

PURE: dict[str, str] = {
    "fields": "",
    "errors": "",
    "pattern": "",
    "retry": "errors",
    "target": "errors",
    "http": "errors fields",
    "identity": "fields http",
    "requirements": "identity",
    "tokens": "identity",
    "answers": "errors fields identity",
    "control": "",
    "config": "errors pattern target",
    "headers": "errors fields http identity target",
    "routes": "config headers identity pattern",
}
"""Pure rooms: name → the rooms that it may import. No sockets here, and no clock."""

PURE_FILES: dict[str, str] = {
    "observe/record.py": "errors",
    "settings/environment.py": "",
    "settings/problems.py": "",
    "settings/scalars.py": "",
    "websocket/frames.py": "",
    "websocket/handshake.py": "answers errors fields",
    "workers/plan.py": "control",
}
"""Pure files in other rooms, the same way."""

EDGES: dict[str, str] = {
    "running": "",
    "settings": "config routes",
    "observe": "errors",
    "keys": "config errors",
    "upstream": "config errors fields http running",
    "sdk": "config errors fields identity",
    "auth": "fields identity sdk",
    "verify": "config errors fields http identity keys requirements tokens",
    "core_session": "identity requirements sdk tokens verify",
    "cors": "config fields target",
    "websocket": "answers errors fields",
    "client": "answers config errors fields http running",
    "listener": "answers client config errors fields http observe running",
    "decide": (
        "answers auth cors errors fields headers http identity observe routes target"
        " websocket"
    ),
    "forward": (
        "answers config decide errors headers http identity observe retry routes"
        " running target upstream websocket"
    ),
    "proxy": (
        "answers config cors decide errors fields forward headers http identity"
        " observe running websocket"
    ),
    "server": "app listener observe sdk settings",
    "aiohttp_app": "answers app client config errors fields http observe sdk settings",
    "workers": "app control sdk server settings",
    "dev": "",
}
ROOMS: dict[str, frozenset[str]] = {
    room: frozenset(names.split()) for room, names in (PURE | EDGES).items()
}
# The composition root joins all but what is for development; the commands, all.
ROOMS["app"] = frozenset(ROOMS) - {"aiohttp_app", "dev", "server", "workers"}
ROOMS["cli"] = frozenset(ROOMS)

LIBRARIES: dict[str, str] = {
    "aiohttp": "aiohttp_app cors dev keys",
    "aiohttp_cors": "cors",
    "click": "cli",
    "cryptography": "dev keys tokens verify",
    "httpx": "sdk",
    "jwt": "core_session sdk",
    "multidict": "aiohttp_app cors",
    "pydantic": "config sdk",
    "pydantic_core": "config",
    "rich": "cli",
    "supertokens_python": "core_session sdk",
    "uvloop": "cli dev",
    "yaml": "settings",
    "yarl": "keys",
}
"""Third-party library → the rooms that know it. Its errors are translated there."""

IMPURE = (
    *("aiohttp", "asyncio", "httptools", "httpx", "requests", "uvloop", "yaml"),
    *("datetime", "importlib", "io", "logging", "os", "pathlib", "queue", "random"),
    *("secrets", "select", "selectors", "signal", "socket", "socketserver", "ssl"),
    *("subprocess", "sys", "tempfile", "threading", "time"),
    *("http.client", "urllib.request", "supertokens_python"),
)
"""What would bring a pure room a clock, chance, a file, a socket or a loop."""

# Who tests a room that has no test file of its own name.
TESTED_IN: dict[str, str] = {
    "errors": "test_answers.py",
    "http": "test_lines.py test_request_head.py test_reply_head.py test_chunks.py",
    "client": "proxy/test_proxy.py",
    "listener": "proxy/test_proxy.py",
    "observe": "observe/",
    "decide": "test_decide.py",
    "proxy": "proxy/test_proxy.py",
    "upstream": "upstream/",
    "websocket": "websocket/",
    "dev": "dev_core/ test_dev_demo.py test_dev_runner.py",
}


def room(path: Path) -> str:
    """Return the room of a file: its folder in the package, or its own name."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"
)


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that the file imports, wherever in it, types included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            # `from gateway import x` names a room, not something in one.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    found = {
        parts[1] for name in imports(path) if (parts := name.split("."))[0] == "gateway"
    }
    return found - {room(path), "__version__"}


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def ident(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def is_pure(path: Path) -> bool:
    return room(path) in PURE or ident(path) in PURE_FILES


def test_every_room_is_in_the_table() -> None:
    """A module that nobody has given a place has no rule."""
    assert {room(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_rooms_import_what_they_may(path: Path) -> None:
    """The arrows of the picture, and no others."""
    assert rooms_imported(path) <= ROOMS[room(path)]


@pytest.mark.parametrize("path", [path for path in FILES if is_pure(path)], ids=ident)
def test_pure_rooms_are_pure(path: Path) -> None:
    """Bytes and small values in, the same out: tested without a socket, in no time."""
    impure = {name for name in imports(path) for bad in IMPURE if is_within(name, bad)}
    assert not impure
    if ident(path) in PURE_FILES:
        assert rooms_imported(path) <= {*PURE_FILES[ident(path)].split()}


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_libraries_stay_where_they_are_known(path: Path) -> None:
    """One room to change when a library does; none that pyproject doesn't have."""
    known = {*sys.stdlib_module_names, "gateway"}
    for name in imports(path):
        top = name.partition(".")[0]
        if top not in known:
            assert top in LIBRARIES, f"{top} has no line in LIBRARIES"
            assert room(path) in LIBRARIES[top].split(), f"{top} in {ident(path)}"


def test_pure_rooms_say_so() -> None:
    """The first word of a module's docstring tells a reader what to expect."""
    for path in FILES:
        if ident(path) in PURE_FILES or (
            room(path) in PURE and path.name in (f"{room(path)}.py", "__init__.py")
        ):
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert said is not None, path
            assert said.startswith("PURE. "), path


def test_proxy_and_verification_meet_in_app_only() -> None:
    """Through `identity.Verifier`: either can be replaced without the other."""
    both = {
        room(path)
        for path in FILES
        if {"proxy", "verify"} <= rooms_imported(path) | {room(path)}
    }
    assert both == {"app"}


def test_composition_root_is_used_at_the_top_only() -> None:
    """Nothing that is composed knows how."""
    top = {"server", "workers", "cli"}
    assert {room(p) for p in FILES if "app" in rooms_imported(p)} <= top | {
        "aiohttp_app"
    }
    assert {room(p) for p in FILES if "server" in rooms_imported(p)} <= top
    assert {room(p) for p in FILES if "workers" in rooms_imported(p)} == {"cli"}
    assert not [p for p in FILES if rooms_imported(p) & {"aiohttp_app", "cli"}]


def test_production_imports_nothing_of_development() -> None:
    """Only the commands `core` and `dev` reach it, and only when they are called."""
    assert {room(p) for p in FILES if "dev" in rooms_imported(p)} == {"cli"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "gateway.cli",
            ("supertokens_python", "gateway.dev", "aiohttp", "asyncio", "rich", "yaml"),
        ),
        ("gateway.server", ("fastapi", "starlette", "flask", "django", "gateway.dev")),
        ("gateway.sdk.setup", ("fastapi", "starlette", "flask", "django")),
    ],
)
def test_importing_stays_light(module: str, absent: tuple[str, ...]) -> None:
    """`gateway --help` answers at once, and the server brings no second framework."""
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert module in loaded
    for name in absent:
        assert not [found for found in loaded if is_within(found, name)], name


def test_every_room_has_its_tests() -> None:
    """`gateway/x.py` → `tests/test_x.py`, or several `tests/test_x_*.py`."""
    for name in sorted(ROOMS):
        places = TESTED_IN.get(name, f"test_{name}*.py").split()
        for place in places:
            pattern = f"{place}test_*.py" if place.endswith("/") else place
            assert sorted(TESTS.glob(pattern)), f"nothing tests gateway.{name}"
