"""The seams: the checks of library internals that the gateway uses or replaces."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from faults import free_ports

from gateway import cli, supertokens
from gateway.seams import aiohttp as aiohttp_seams
from gateway.seams import supertokens as sdk_seams
from gateway.seams.library import (
    Demands,
    Does,
    Has,
    Keeps,
    Library,
    LibraryChanged,
    Need,
    Takes,
    Uses,
    find,
)

ROOT = Path(__file__).parent.parent
MODULES = (sdk_seams, aiohttp_seams)
LIBRARIES = [library for module in MODULES for library in module.LIBRARIES]

NEEDS = [
    pytest.param(library, need, id=f"{seam.name}-{type(need).__name__}-{number}")
    for library in LIBRARIES
    for seam in library.seams
    for number, need in enumerate(seam.needs)
]


@pytest.fixture(autouse=True)
def whole() -> None:
    """Start each test with the installed libraries, imported and checked."""
    supertokens.check_library()
    aiohttp_seams.check()


def parent(path: str) -> tuple[Any, str]:
    """Return the owner of the attribute at the end of *path*, and its name."""
    above, _, name = path.replace(":", ".").rpartition(".")
    module, colon, names = path.partition(":")
    assert colon
    outer = ".".join(names.split(".")[:-1])
    owner = find(f"{module}:{outer}" if outer else module)
    assert above.endswith(outer)
    return owner, name


def without(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Delete the attribute that *path* names, from base classes as well."""
    owner, name = parent(path)
    owners = owner.__mro__ if isinstance(owner, type) else (owner,)
    for base in owners:
        if name in vars(base) and base is not object:
            monkeypatch.delattr(base, name)


def changed(need: Need) -> Any:
    """Return a replacement that doesn't meet *need*."""
    match need:
        case Takes():
            return lambda *, of_another_kind: of_another_kind
        case Uses() | Does():
            return lambda *_, **__: None
        case Keeps():
            return type("Empty", (), {})
        case Demands():
            return SimpleNamespace(__abstractmethods__=frozenset({"a_new_method"}))
        case _:
            raise AssertionError(need)


# --- each seam -----------------------------------------------------------------


@pytest.mark.parametrize(("library", "need"), NEEDS)
def test_a_missing_name_fails_the_check(
    library: Library, need: Need, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the library and its version, the missing name, and the remedy."""
    without(monkeypatch, need.path)
    with pytest.raises(LibraryChanged) as raised:
        library.check()
    text = str(raised.value)
    assert re.match(rf"{library.name} \d+\.\d+\S* has changed: ", text)
    # Every class has an `__init__`.
    problem = "doesn't use" if need.path.endswith("__init__") else "is missing"
    assert f"{need.path.replace(':', '.')} {problem}" in text
    required = library.name + library.versions
    assert f"This gateway needs {required}." in text
    assert text.endswith(f"Remedy: pip install '{required}'")


@pytest.mark.parametrize(
    ("library", "need"),
    [case for case in NEEDS if not isinstance(case.values[1], Has)],
)
def test_a_changed_name_fails_the_check(
    library: Library, need: Need, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails too if the name exists but doesn't meet the need."""
    owner, name = parent(need.path)
    monkeypatch.setattr(owner, name, changed(need))
    with pytest.raises(LibraryChanged, match="has changed") as raised:
        library.check()
    problem = rf"{re.escape(need.path.replace(':', '.'))} (can't|does|has no|demands)"
    assert re.search(problem, str(raised.value))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_seam_has_a_check(module: ModuleType) -> None:
    """Each public name of a seam module is declared, with needs or with a reason."""
    public = {
        name
        for name, it in vars(module).items()
        if inspect.isroutine(it) or inspect.isclass(it)
        if it.__module__ == module.__name__ and not name.startswith("_")
    }
    seams = [seam for library in module.LIBRARIES for seam in library.seams]
    assert public - {"check"} <= {seam.name for seam in seams}
    for seam in seams:
        assert bool(seam.needs) != bool(seam.harmless), seam.name


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_seam_documents_what_would_break(module: ModuleType) -> None:
    """Its docstring names what it replaces or reads, and what a change would break."""
    for library in module.LIBRARIES:
        for seam in library.seams:
            it = getattr(module, seam.name, None)
            if it is None or seam.harmless:
                continue  # declared for another module, or unchecked with a reason
            text = inspect.getdoc(it) or ""
            assert re.search(r"(?m)^(Replaced|Read|Overridden): ", text), seam.name
            assert re.search(r"Breaks:\s", text), seam.name


def test_declared_seams_exist() -> None:
    """A seam that is declared for another module exists in that module."""
    for module in MODULES:
        for library in module.LIBRARIES:
            for seam in library.seams:
                file, colon, names = seam.name.partition(":")
                if not colon:
                    continue
                it: Any = importlib.import_module(file)
                for name in names.split("."):
                    it = getattr(it, name)


def test_bounds_are_those_of_pyproject() -> None:
    """The remedy names the versions that installing the gateway allows."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    for library in LIBRARIES:
        assert library.name + library.versions in dependencies


def test_a_seam_without_needs_or_reason_is_refused() -> None:
    """A seam has either needs, which are checked, or a reason, and not both."""
    library = Library("x", ">=1")
    with pytest.raises(ValueError, match="give what it needs"):
        library.declare("nothing")
    with pytest.raises(ValueError, match="give what it needs"):
        library.declare("both", Has("sys:path"), harmless="really")


def test_a_library_that_is_not_installed() -> None:
    """The error has no version, but it has the missing module."""
    library = Library("not-installed", ">=1")
    library.declare("it", Has("not_installed_at_all:name"))
    with pytest.raises(LibraryChanged) as raised:
        library.check()
    assert str(raised.value).startswith(
        "not-installed (unknown version) has changed: not_installed_at_all is missing."
    )


# --- the commands ----------------------------------------------------------------

BROKEN = [
    ("supertokens_python.querier", "AsyncClient", "supertokens-python"),
    ("aiohttp.web_protocol.RequestHandler", "set_parser", "aiohttp"),
]
MINIMAL = """
version: 1
services: {page: {targets: ["http://127.0.0.1:9"]}}
routes: [{path: /, service: page}]
gateway: {listen: "127.0.0.1:0"}
"""


@pytest.mark.parametrize(("place", "name", "library"), BROKEN)
def test_check_ends_with_the_remedy(
    place: str,
    name: str,
    library: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`gateway check` exits with 1, and its error says what to install."""
    config = tmp_path / "routes.yaml"
    config.write_text(MINIMAL)
    monkeypatch.delattr(f"{place}.{name}")
    done = CliRunner().invoke(cli.main, ["check", "-c", str(config)])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert f"{place}.{name} is missing" in done.stderr
    assert f"Remedy: pip install '{library}>=" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(("place", "name", "library"), BROKEN)
def test_a_server_ends_with_the_remedy(
    place: str, name: str, library: str, tmp_path: Path
) -> None:
    """`gateway serve` exits with 1 and no traceback."""
    config = tmp_path / "routes.yaml"
    config.write_text(MINIMAL)
    owner, _, attribute = place.rpartition(".")
    is_class = attribute[:1].isupper()
    program = f"""
        import importlib, sys
        owner = importlib.import_module({(owner if is_class else place)!r})
        delattr({f"owner.{attribute}" if is_class else "owner"}, {name!r})
        from gateway.cli import main
        main(["serve", "-c", {str(config)!r}])
    """
    environ = {"GATEWAY_WORKERS": "1"} | _free_ports()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", **environ},
    )
    assert done.returncode == 1, done.stderr
    assert f"{place}.{name} is missing" in done.stderr
    assert f"Remedy: pip install '{library}>=" in done.stderr
    assert "Traceback" not in done.stderr


def _free_ports() -> dict[str, str]:
    """Return variables that give each part of `gateway dev` a free port."""
    from gateway.dev.ports import Ports, variable

    names = [variable(name) for name, _ in Ports()]
    return dict(zip(names, map(str, free_ports(len(names))), strict=True))


# --- only seams use internals of libraries -------------------------------------------

PACKAGE = ROOT / "gateway"
SEAM_FILES = {PACKAGE / "seams" / f"{name}.py" for name in ("aiohttp", "supertokens")}
REACHED = frozenset(
    {"supertokens_python", "aiohttp", "aiohttp_cors", "httpx", "pydantic", "jwt"}
    | {"pydantic_core", "httptools", "multidict", "yarl", "yaml", "click", "rich"}
    | {"cryptography", "uvloop"}
)


PUBLIC_NAMES = frozenset({"_asdict", "_exit", "_fields", "_replace"})
"""Public names that begin with an underscore: of `os`, and of named tuples."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def reaches(tree: ast.Module) -> Iterator[str]:
    """Yield each use of a library's internals in *tree*.

    These are private names that no class of the file defines, and assignments to
    something imported from a library or to `sys.modules`.
    """
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in REACHED:
                    imported.add((alias.asname or alias.name).partition(".")[0])
                    if any(map(is_private, alias.name.split("."))):
                        yield f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module.partition(".")[0] not in REACHED:
                continue
            for alias in node.names:
                imported.add(alias.asname or alias.name)
                if any(map(is_private, [*node.module.split("."), alias.name])):
                    yield f"from {node.module} import {alias.name}"
    own = PUBLIC_NAMES | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=attr) if is_private(attr) and (
                attr not in own or root(node) in imported
            ):
                yield ast.unparse(node)
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "delattr" as how),
                args=[whose, ast.Constant(value=str(attr)), *_],
            ) if is_private(attr) or (how != "getattr" and root(whose) in imported):
                yield ast.unparse(node)
            case ast.Call(
                func=ast.Name(id="setattr" | "delattr"), args=[whose, *_]
            ) if root(whose) in imported:
                yield ast.unparse(node)
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                yield from (
                    ast.unparse(target)
                    for target in targets
                    if is_inside(target, imported)
                )
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                if is_inside(target, imported):
                    yield ast.unparse(target)
            case _:
                pass


def is_inside(target: ast.expr, imported: set[str]) -> bool:
    if not isinstance(target, ast.Attribute | ast.Subscript):
        return False
    return root(target) in imported or ast.unparse(target).startswith("sys.modules[")


def root(node: ast.expr) -> str | None:
    """Return the name that an expression begins with, through calls and casts."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner) | ast.Subscript(value=inner):
            return root(inner)
        case ast.Call(func=ast.Name(id="cast"), args=[_, inner]):
            return root(inner)
        case ast.Call(func=inner):
            return root(inner)
        case _:
            return None


FILES = sorted(set(PACKAGE.rglob("*.py")) - SEAM_FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_seams_reach_into_libraries(path: Path) -> None:
    """No other file uses or replaces the internals of a library."""
    assert not list(reaches(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", sorted(SEAM_FILES), ids=lambda path: path.name)
def test_the_rule_finds_the_seams(path: Path) -> None:
    """The positive control: `reaches` finds uses in both seam files."""
    assert list(reaches(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "text",
    [
        "import httpx._main",
        "from supertokens_python import _x",
        "from aiohttp._parser import Reader",
        "from aiohttp import web\nweb.Request._match_info",
        "request.protocol._manager",
        "getattr(request.protocol, '_manager', None)",
        "from supertokens_python import querier\nquerier.AsyncClient = None",
        "from supertokens_python import querier\ncast('Any', querier).AsyncClient = 1",
        "from supertokens_python import querier\nsetattr(querier, name, None)",
        "import aiohttp.web\ndel aiohttp.web.Request",
        "from a.b import c\nimport sys\nsys.modules['httpx.x'] = None",
        "from supertokens_python import Supertokens\nSupertokens.get_instance().x = 1",
    ],
)
def test_each_use_of_internals_is_found(text: str) -> None:
    """`reaches` finds each way to use or replace the internals of a library."""
    assert list(reaches(ast.parse(text)))
