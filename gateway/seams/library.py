"""edge. Whether a library still has what the gateway replaces or reads in it.

A seam is a function or class that depends on something a library doesn't promise: a
private name, a module's global, a method that is overridden. Each one is registered
with what it needs of the library, and `Library.check` verifies all needs at start.
The seams are in `sdk.seams` and `aiohttp_seams`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")

_NOTHING = object()


class LibraryChanged(RuntimeError):
    """A library lacks something that a seam needs; the text has the remedy."""


def find(path: str) -> Any:
    """Return what `package.module:Name.attribute` names.

    Raises:
        LookupError: there is no such thing.
    """
    module, _, names = path.partition(":")
    try:
        value = importlib.import_module(module)
    except ImportError as exc:
        raise LookupError(module) from exc
    for name in names.split(".") if names else ():
        # Static: a property must be found and not be read.
        value = inspect.getattr_static(value, name, _NOTHING)
        if value is _NOTHING:
            raise LookupError(path)
    return getattr(value, "__func__", value)  # of a static or class method


class Need(Protocol):
    """One thing that a seam needs of a library."""

    @property
    def path(self) -> str:
        """Where it is, as `package.module:Name.attribute`."""
        ...

    def missing_in(self, value: Any) -> str | None:
        """Return what *value*, which is at the path, lacks; None when it is sound."""
        ...


@dataclass(frozen=True, slots=True)
class Has:
    """It exists."""

    path: str

    def missing_in(self, value: Any) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class Takes:
    """It can be called like this; a method with `self` among *positional*."""

    path: str
    positional: int = 0
    by_name: tuple[str, ...] = ()

    def missing_in(self, value: Any) -> str | None:
        try:
            inspect.signature(value).bind(
                *[None] * self.positional, **dict.fromkeys(self.by_name)
            )
        except (TypeError, ValueError):
            by_name = "".join(f", {name}=" for name in self.by_name)
            return f"can't be called with {self.positional} arguments{by_name}"
        return None


@dataclass(frozen=True, slots=True)
class Uses:
    """Its code looks these names up, as globals or attributes.

    A name that is replaced and no longer looked up would be a replacement without
    effect.
    """

    path: str
    names: tuple[str, ...]

    def missing_in(self, value: Any) -> str | None:
        code = getattr(value, "__code__", None)
        used = frozenset(_names(code)) if isinstance(code, CodeType) else frozenset()
        missing = [name for name in self.names if name not in used]
        return f"doesn't use {', '.join(missing)}" if missing else None


@dataclass(frozen=True, slots=True)
class Keeps:
    """Instances of this class have these attributes."""

    path: str
    names: tuple[str, ...]

    def missing_in(self, value: Any) -> str | None:
        kept: set[str] = set()
        for base in getattr(value, "__mro__", ()):
            own = vars(base)
            slots = own.get("__slots__", ())
            kept.update(own, own.get("__annotations__", ()), slots)
            code = getattr(own.get("__init__"), "__code__", None)
            if isinstance(code, CodeType):
                kept.update(_names(code))
        missing = [name for name in self.names if name not in kept]
        return f"has no {', '.join(missing)}" if missing else None


@dataclass(frozen=True, slots=True)
class Demands:
    """A subclass of this class must define no other methods than these."""

    path: str
    methods: frozenset[str]

    def missing_in(self, value: Any) -> str | None:
        demanded: frozenset[str] = getattr(value, "__abstractmethods__", frozenset())
        new = demanded - self.methods
        return f"demands {', '.join(sorted(new))}" if new else None


@dataclass(frozen=True, slots=True)
class Does:
    """It behaves: *proof* is called with it, and returns whether it does *what*."""

    path: str
    what: str
    proof: Callable[[Any], bool]

    def missing_in(self, value: Any) -> str | None:
        try:
            is_proven = self.proof(value)
        except Exception:  # noqa: BLE001 - it behaves in another way
            is_proven = False
        return None if is_proven else f"doesn't {self.what}"


def _names(code: CodeType) -> Iterator[str]:
    """Yield the globals and attributes that *code* and functions in it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """A dependency on what a library doesn't promise."""

    name: str
    needs: tuple[Need, ...]
    harmless: str
    """Why it needs no check; else empty."""


class Library:
    """The seams of one distribution, and the versions that they were read in."""

    def __init__(self, name: str, versions: str) -> None:
        """*name* and *versions* are as in pyproject.toml: `aiohttp`, `>=3,<4`."""
        self.name = name
        self.versions = versions
        self.seams: list[Seam] = []

    def seam(self, *needs: Need, harmless: str = "") -> Callable[[_T], _T]:
        """Register the decorated function or class as a seam with these *needs*.

        *harmless* is why nothing is checked; give it only without needs.
        """

        def register(it: _T) -> _T:
            self.declare(str(getattr(it, "__name__", it)), *needs, harmless=harmless)
            return it

        return register

    def declare(self, name: str, *needs: Need, harmless: str = "") -> None:
        """Register a seam that is implemented in another module, under its *name*.

        Raises:
            ValueError: it has neither needs nor a reason, or both.
        """
        if bool(needs) == bool(harmless):
            raise ValueError(f"{name}: give what it needs, or why it is harmless")
        self.seams.append(Seam(name=name, needs=needs, harmless=harmless))

    def check(self) -> None:
        """Return when the library has everything that the seams need.

        Raises:
            LibraryChanged: it lacks something; the text names all of it.
        """
        troubles = dict.fromkeys(
            trouble
            for seam in self.seams
            for need in seam.needs
            if (trouble := _trouble(need)) is not None
        )
        if troubles:
            requirement = self.name + self.versions
            raise LibraryChanged(
                f"{self.name} {_version(self.name)} has changed: {'; '.join(troubles)}."
                f" This gateway needs {requirement}."
                f" Remedy: pip install '{requirement}'"
            )


def _trouble(need: Need) -> str | None:
    try:
        value = find(need.path)
    except LookupError as missing:
        return f"{_shown(str(missing.args[0]))} is missing"
    lacks = need.missing_in(value)
    return None if lacks is None else f"{_shown(need.path)} {lacks}"


def _shown(path: str) -> str:
    return path.replace(":", ".")


def _version(name: str) -> str:
    from importlib import metadata  # slow to import, and needed for a message only

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(unknown version)"
