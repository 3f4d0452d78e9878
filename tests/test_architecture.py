"""The import rules between the rooms of docs/architecture.md.

The tests read the imports of each file and compare them with the tables below. A new
module needs an entry in `PURE` or `EDGES`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "gateway"

PURE: dict[str, str] = {
    "errors": "",
    "events": "",
    "pace": "",
    "shedding": "",
    "http": "errors",
    "identity": "http",
    "responses": "errors http identity",
    "headers": "errors http identity",
    "clients": "headers",
    "config": "errors headers http",
    "timeouts": "config",
    "rate_limits": "clients config http identity",
    "routes": "config errors headers http identity rate_limits timeouts",
    "openapi": "config http identity routes",
    "decisions": "headers http identity responses routes",
    "audit": "config headers http identity routes",
}
"""Pure rooms: name → the rooms that it may import. They use no socket and no clock."""

EDGES: dict[str, str] = {
    "running": "",
    "seams": "errors",
    "observe": "config errors events headers routes",
    "settings": "config routes",
    "upstream": "clients config errors events http running timeouts",
    "websocket": "errors http responses running",
    "tls": "config events",
    "downstream": (
        "clients config errors events headers http observe pace responses running seams"
        " tls"
    ),
    "session": "config errors events http identity pace",
    "verify": "identity session",
    "supertokens": (
        "config errors events http identity observe pace responses running seams"
        " session"
    ),
    "resources": "http routes supertokens",
    "access": "decisions errors http identity resources routes",
    "decide": (
        "access decisions downstream errors headers http identity observe rate_limits"
        " resources responses routes session shedding supertokens websocket"
    ),
    "overload": "config decide events observe shedding",
    "mirroring": (
        "decisions downstream errors headers observe routes timeouts upstream"
    ),
    "assertions": ("config decisions headers identity routes settings upstream"),
    "forward": (
        "assertions config decide decisions downstream errors headers http identity"
        " mirroring observe pace responses routes running timeouts upstream websocket"
    ),
    "proxy": (
        "assertions config decide decisions downstream errors events forward headers"
        " http identity mirroring observe pace rate_limits resources responses running"
        " upstream websocket"
    ),
    "fronts": (
        "config decisions downstream errors events headers http identity observe proxy"
        " responses routes running"
    ),
    "admin": "config events routes settings",
    "shared": "config events pace rate_limits session",
    "process": (
        "admin app assertions clients config downstream errors events fronts http"
        " observe pace"
        " rate_limits seams session shared routes settings supertokens tls upstream"
    ),
    "aiohttp_app": (
        "app config downstream errors http observe pace responses seams settings"
        " supertokens"
    ),
    "aws": (
        "app config decide decisions errors events fronts headers http identity observe"
        " proxy responses routes settings supertokens"
    ),
    "doctor": "config routes shared supertokens upstream",
    "explain": (
        "config decide decisions downstream errors headers http identity observe"
        " rate_limits resources routes session supertokens verify"
    ),
    "dev": "",
}
ROOMS: dict[str, frozenset[str]] = {
    room: frozenset(names.split()) for room, names in (PURE | EDGES).items()
}
# The composition root imports all rooms but those above it; the commands import all.
ROOMS["app"] = frozenset(ROOMS) - {
    *("admin", "aiohttp_app", "audit", "aws", "dev", "doctor", "explain", "openapi"),
    *("process", "shared"),
}
ROOMS["cli"] = frozenset(ROOMS)

LIBRARIES: dict[str, str] = {
    "aiohttp": "admin aiohttp_app dev downstream process seams session supertokens",
    "aiohttp_cors": "downstream seams",
    "click": "cli",
    "cryptography": "assertions dev session tls",
    "google": "fronts",
    "h2": "fronts",
    "httpx": "seams supertokens",
    "jwt": "seams supertokens",
    "multidict": "aiohttp_app downstream",
    "opentelemetry": "observe",
    "prometheus_client": "process",
    "pydantic": "config explain supertokens",
    "pydantic_core": "config",
    "redis": "shared",
    "rich": "cli",
    "supertokens_python": "seams supertokens",
    "tldextract": "supertokens",
    "uvloop": "cli dev",
    "yaml": "settings",
    "yarl": "session supertokens",
}
"""Third-party library → the rooms that import it, and translate its errors."""

IMPURE = (
    *("aiohttp", "asyncio", "httptools", "httpx", "requests", "uvloop", "yaml"),
    *("datetime", "importlib", "io", "logging", "os", "pathlib", "queue", "random"),
    *("secrets", "select", "selectors", "signal", "socket", "socketserver", "sqlite3"),
    *("ssl", "subprocess", "sys", "tempfile", "threading", "time", "uuid"),
    *("aiohttp_cors", "click", "http.client", "rich", "supertokens_python"),
    *("urllib.request",),
)
"""Modules with access to a clock, randomness, files, sockets or an event loop."""

TAGS = ("PURE", "edge", "composition root")
"""Each file's docstring begins with one of these and a period."""

# Test files of rooms that have none of their own name.
TESTED_IN: dict[str, str] = {
    "errors": "test_responses.py",
    "seams": "test_seams.py",
    "proxy": "proxy/test_proxy.py",
    "decisions": "test_decide.py",
    "resources": "test_decide.py",
}


def room(path: Path) -> str:
    """Return the room of a file: its folder in the package, or its own name."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


ALL_FILES = sorted(PACKAGE.rglob("*.py"))
FILES = [path for path in ALL_FILES if path != PACKAGE / "__init__.py"]


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names of all imports in a file, those for types included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            # In `from gateway import x`, `gateway.x` is a room.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    rooms = {
        parts[1] for name in imports(path) if (parts := name.split("."))[0] == "gateway"
    }
    return rooms - {room(path), "__version__"}


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def ident(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def tag(path: Path) -> str:
    """Return the tag at the beginning of the file's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition(". ")[0]


def files_imported(path: Path) -> set[Path]:
    """Return the files of the package that a file imports, fully or in part."""
    files = set()
    for name in imports(path):
        first, *rest = name.split(".")
        # In `from gateway.x import y`, y is a file or a name in x.
        while first == "gateway":
            place = PACKAGE.joinpath(*rest)
            if (file := place.with_suffix(".py")).is_file() and rest:
                files.add(file)
                break
            if (file := place / "__init__.py").is_file():
                files.add(file)
                break
            rest.pop()
    return files


def impure_imports(path: Path) -> set[str]:
    return {
        name for name in imports(path) for module in IMPURE if is_within(name, module)
    }


def test_every_room_is_in_the_table() -> None:
    """Each module belongs to a room with a rule, and each room has a module."""
    assert {room(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_rooms_import_what_they_may(path: Path) -> None:
    """A file imports only the rooms that the tables allow for its own."""
    assert rooms_imported(path) <= ROOMS[room(path)]


@pytest.mark.parametrize("path", ALL_FILES, ids=ident)
def test_files_are_what_their_tags_say(path: Path) -> None:
    """A pure file imports pure files only, and no impure module.

    An edge or the composition root imports something impure, if it imports anything.
    """
    assert tag(path) in TAGS, "the docstring doesn't begin with a tag"
    files = files_imported(path) - {PACKAGE / "__init__.py"}
    impure = impure_imports(path) | {
        ident(file) for file in files if tag(file) != "PURE"
    }
    if tag(path) == "PURE":
        assert not impure
    elif set(imports(path)) - {"__future__.annotations"}:
        assert impure, "the file is pure"


def test_pure_rooms_have_pure_files_only() -> None:
    """Every file of a room in the table `PURE` has that tag."""
    assert {room(path) for path in FILES if room(path) in PURE} == set(PURE)
    for path in FILES:
        if room(path) in PURE:
            assert tag(path) == "PURE", path


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_libraries_stay_where_they_are_known(path: Path) -> None:
    """A file imports a library only if `LIBRARIES` allows it for the file's room."""
    known = {*sys.stdlib_module_names, "gateway"}
    for name in imports(path):
        top = name.partition(".")[0]
        if top not in known:
            assert top in LIBRARIES, f"{top} has no entry in LIBRARIES"
            assert room(path) in LIBRARIES[top].split(), f"{top} in {ident(path)}"


def test_proxy_and_verification_meet_in_app_only() -> None:
    """Only `app` imports both; elsewhere they know `identity.Verifier`."""
    both = {
        room(path)
        for path in FILES
        if {"proxy", "verify"} <= rooms_imported(path) | {room(path)}
    }
    assert both == {"app"}


def test_only_verification_knows_how_sessions_are_verified() -> None:
    """Other rooms import only the pure files of `session`; the hub fetches keys."""
    for path in FILES:
        if room(path) not in {"app", "session", "supertokens", "verify"}:
            files = {file for file in files_imported(path) if room(file) == "session"}
            edges = {ident(file) for file in files if tag(file) != "PURE"}
            is_hub = ident(path) == "process/hub.py"
            known = {"session/keys.py", "session/key_reports.py"}
            assert edges == (known if is_hub else set())


def test_composition_root_is_used_at_the_top_only() -> None:
    """Only the entry points import `app`, and only `cli` imports `process`."""
    top = {"process", "aiohttp_app", "aws", "cli"}
    assert {room(p) for p in FILES if "app" in rooms_imported(p)} <= top
    assert {room(p) for p in FILES if "process" in rooms_imported(p)} == {"cli"}
    assert not [p for p in FILES if rooms_imported(p) & {"aiohttp_app", "cli"}]


def test_production_imports_nothing_of_development() -> None:
    """Only `cli` imports `gateway.dev`."""
    assert {room(p) for p in FILES if "dev" in rooms_imported(p)} == {"cli"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "gateway.cli",
            ("supertokens_python", "gateway.dev", "aiohttp", "asyncio", "rich", "yaml"),
        ),
        (
            "gateway.process",
            (
                *("fastapi", "starlette", "flask", "django", "gateway.dev"),
                # The SDK's start imports these, without httpx's command line.
                *("httpx", "rich", "supertokens_python"),
            ),
        ),
        ("gateway.supertokens.setup", ("fastapi", "starlette", "flask", "django")),
        ("gateway.seams.supertokens", ("supertokens_python", "httpx", "aiohttp")),
    ],
)
def test_importing_stays_light(module: str, absent: tuple[str, ...]) -> None:
    """Importing these modules doesn't import the slow or unused modules listed.

    So `gateway --help` answers quickly, and the server loads no second framework.
    """
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert module in loaded
    for name in absent:
        assert not [each for each in loaded if is_within(each, name)], name


def test_every_room_has_its_tests() -> None:
    """`gateway/x.py` is tested in `tests/test_x.py`, and `gateway/x/` in `tests/x/`."""
    for name in sorted(ROOMS):
        place = (
            f"{name}/**/test_*.py" if (PACKAGE / name).is_dir() else f"test_{name}.py"
        )
        assert sorted(TESTS.glob(TESTED_IN.get(name, place))), f"nothing tests {name}"


def test_no_test_file_has_the_name_of_another() -> None:
    """pytest imports them by their names alone, so it would refuse the second one."""
    names = Counter(path.name for path in TESTS.glob("**/test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_rooms_have_no_import_cycle() -> None:
    """The imports between rooms form no cycle."""
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        arrows.setdefault(room(path), set()).update(rooms_imported(path))
    list(TopologicalSorter(arrows).static_order())  # raises CycleError


def test_no_class_name_is_used_twice() -> None:
    """A reader who searches for a class finds one. `dev` has the core's own words."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        if room(path) != "dev":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(ident(path))
    assert {name: at for name, at in places.items() if len(at) > 1} == {}
