"""The rooms of docs/architecture.md: who may import what, held by reading the imports.

The tables are the rule. A new module needs a line in ROOMS before it passes.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "gateway"

PURE: dict[str, str] = {
    "errors": "",
    "pace": "",
    "http": "errors",
    "identity": "http",
    "responses": "errors http identity",
    "headers": "errors http identity",
    "clients": "headers",
    "config": "errors headers http",
    "routes": "config headers http identity",
}
"""Pure rooms: name → the rooms that it may import. No sockets here, and no clock."""

EDGES: dict[str, str] = {
    "running": "",
    "seams": "errors",
    "observe": "errors",
    "settings": "config routes",
    "upstream": "clients config errors http running",
    "websocket": "errors http responses",
    "downstream": "config errors http observe pace responses running seams",
    "session": "config errors http identity pace",
    "verify": "identity session",
    "supertokens": "config errors http identity responses seams session",
    "decide": (
        "downstream errors headers http identity observe responses routes session"
        " supertokens websocket"
    ),
    "forward": (
        "config decide errors headers http identity observe pace responses routes"
        " running upstream websocket"
    ),
    "proxy": (
        "config decide downstream errors forward headers http identity observe pace"
        " responses running websocket"
    ),
    "process": ("app downstream http observe pace seams session settings supertokens"),
    "aiohttp_app": (
        "app config downstream errors http observe pace responses seams settings"
        " supertokens"
    ),
    "dev": "",
}
ROOMS: dict[str, frozenset[str]] = {
    room: frozenset(names.split()) for room, names in (PURE | EDGES).items()
}
# The composition root joins all but what is for development; the commands, all.
ROOMS["app"] = frozenset(ROOMS) - {"aiohttp_app", "dev", "process"}
ROOMS["cli"] = frozenset(ROOMS)

LIBRARIES: dict[str, str] = {
    "aiohttp": "aiohttp_app dev downstream seams session",
    "aiohttp_cors": "downstream seams",
    "click": "cli",
    "cryptography": "dev session",
    "httpx": "seams supertokens",
    "jwt": "seams supertokens",
    "multidict": "aiohttp_app downstream",
    "pydantic": "config supertokens",
    "pydantic_core": "config",
    "rich": "cli",
    "supertokens_python": "seams supertokens",
    "uvloop": "cli dev",
    "yaml": "settings",
    "yarl": "session",
}
"""Third-party library → the rooms that know it. Its errors are translated there."""

IMPURE = (
    *("aiohttp", "asyncio", "httptools", "httpx", "requests", "uvloop", "yaml"),
    *("datetime", "importlib", "io", "logging", "os", "pathlib", "queue", "random"),
    *("secrets", "select", "selectors", "signal", "socket", "socketserver", "sqlite3"),
    *("ssl", "subprocess", "sys", "tempfile", "threading", "time", "uuid"),
    *("aiohttp_cors", "click", "http.client", "rich", "supertokens_python"),
    *("urllib.request",),
)
"""What would bring a pure file a clock, chance, a file, a socket or a loop."""

TAGS = ("PURE", "edge", "composition root")
"""The words, with a period, of which one begins each file's docstring."""

# Who tests a room that has no test file of its own name.
TESTED_IN: dict[str, str] = {
    "errors": "test_responses.py",
    "seams": "test_seams.py",
    "proxy": "proxy/test_proxy.py",
}


def room(path: Path) -> str:
    """Return the room of a file: its folder in the package, or its own name."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


ALL_FILES = sorted(PACKAGE.rglob("*.py"))
FILES = [path for path in ALL_FILES if path != PACKAGE / "__init__.py"]


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


def tag(path: Path) -> str:
    """Return the word that begins the file's docstring."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.partition(". ")[0]


def files_imported(path: Path) -> set[Path]:
    """Return the files of the package that a file imports, by whatever name."""
    found = set()
    for name in imports(path):
        first, *rest = name.split(".")
        # `from gateway.x import y` names a file, or something in one.
        while first == "gateway":
            place = PACKAGE.joinpath(*rest)
            if (file := place.with_suffix(".py")).is_file() and rest:
                found.add(file)
                break
            if (file := place / "__init__.py").is_file():
                found.add(file)
                break
            rest.pop()
    return found


def impure_imports(path: Path) -> set[str]:
    return {name for name in imports(path) for bad in IMPURE if is_within(name, bad)}


def test_every_room_is_in_the_table() -> None:
    """A module that nobody has given a place has no rule."""
    assert {room(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_rooms_import_what_they_may(path: Path) -> None:
    """The arrows of the picture, and no others."""
    assert rooms_imported(path) <= ROOMS[room(path)]


@pytest.mark.parametrize("path", ALL_FILES, ids=ident)
def test_files_are_what_their_tags_say(path: Path) -> None:
    """Bytes and small values in, the same out: a pure file is tested without a socket,
    in no time. It imports pure files only, so that this holds for all it does.

    An edge reaches a clock, chance, a file, a socket or a loop, if it imports anything.
    """
    assert tag(path) in TAGS, "the docstring begins with no tag"
    reached = files_imported(path) - {PACKAGE / "__init__.py"}
    reaches = impure_imports(path) | {
        ident(one) for one in reached if tag(one) != "PURE"
    }
    if tag(path) == "PURE":
        assert not reaches
    elif set(imports(path)) - {"__future__.annotations"}:
        assert reaches, "nothing here isn't pure"


def test_pure_rooms_have_pure_files_only() -> None:
    """A room of the table PURE decides; what acts stands in another."""
    assert {room(path) for path in FILES if room(path) in PURE} == set(PURE)
    for path in FILES:
        if room(path) in PURE:
            assert tag(path) == "PURE", path


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_libraries_stay_where_they_are_known(path: Path) -> None:
    """One room to change when a library does; none that pyproject doesn't have."""
    known = {*sys.stdlib_module_names, "gateway"}
    for name in imports(path):
        top = name.partition(".")[0]
        if top not in known:
            assert top in LIBRARIES, f"{top} has no line in LIBRARIES"
            assert room(path) in LIBRARIES[top].split(), f"{top} in {ident(path)}"


def test_proxy_and_verification_meet_in_app_only() -> None:
    """Through `identity.Verifier`: either can be replaced without the other."""
    both = {
        room(path)
        for path in FILES
        if {"proxy", "verify"} <= rooms_imported(path) | {room(path)}
    }
    assert both == {"app"}


def test_only_verification_knows_how_sessions_are_verified() -> None:
    """All others see the pure files of that room: credentials, and the deny-list."""
    for path in FILES:
        if room(path) not in {"app", "session", "supertokens", "verify"}:
            seen = {one for one in files_imported(path) if room(one) == "session"}
            assert {ident(one) for one in seen if tag(one) != "PURE"} == set()


def test_composition_root_is_used_at_the_top_only() -> None:
    """Nothing that is composed knows how."""
    top = {"process", "aiohttp_app", "cli"}
    assert {room(p) for p in FILES if "app" in rooms_imported(p)} <= top
    assert {room(p) for p in FILES if "process" in rooms_imported(p)} == {"cli"}
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
        ("gateway.process", ("fastapi", "starlette", "flask", "django", "gateway.dev")),
        ("gateway.supertokens.setup", ("fastapi", "starlette", "flask", "django")),
        ("gateway.seams.supertokens", ("supertokens_python", "httpx", "aiohttp")),
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
    """`gateway/x.py` → `tests/test_x.py`, and `gateway/x/` → `tests/x/`."""
    for name in sorted(ROOMS):
        place = (
            f"{name}/**/test_*.py" if (PACKAGE / name).is_dir() else f"test_{name}.py"
        )
        assert sorted(TESTS.glob(TESTED_IN.get(name, place))), f"nothing tests {name}"


def test_no_room_imports_what_imports_it() -> None:
    """The arrows between rooms have one direction."""
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        arrows.setdefault(room(path), set()).update(rooms_imported(path))
    list(TopologicalSorter(arrows).static_order())  # raises CycleError
