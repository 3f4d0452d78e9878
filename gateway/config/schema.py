"""PURE. The JSON schema of `routes.yaml`, with the documentation of each key."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from gateway.config import models


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of `routes.yaml`, for editors.

    It accepts `${NAME}` in place of every number and boolean.

    Source: JSON Schema 2020-12.
    """
    schema = models.Config.model_json_schema()
    for name, docs in docstrings().items():
        model = schema if name == "Config" else schema["$defs"].get(name)
        if model is None:
            continue  # a base of other models
        for key, text in docs.items():
            model["properties"][key]["description"] = text
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_with_variables(schema),
    }


@cache
def docstrings() -> Mapping[str, Mapping[str, str]]:
    """Return the documentation of each key, by the name of its model.

    pydantic can read it, too, when it builds the classes. That would add 70 ms to every
    start of the gateway, and only `json_schema` and the reference need it.
    """
    docs: dict[str, dict[str, str]] = {}
    for node in definitions():
        if node.name != "Model":
            fields = docs.setdefault(node.name, {})
            for base in node.bases:
                fields |= docs.get(ast.unparse(base), {})
            for field, text in pairwise(node.body):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(doc))),
                    ):
                        fields[_ALIASES.get(name, name)] = inspect.cleandoc(doc)
                    case _:
                        pass
    return docs


_ALIASES = {"any_of": "in", "for_kind": "for", "except_for": "except"}
"""Keys that are words of Python, by the names of their fields."""


@cache
def definitions() -> tuple[ast.ClassDef, ...]:
    """Return the syntax tree of each model's class."""
    return tuple(
        node
        for file in models.FILES
        for node in ast.parse(inspect.getsource(file)).body
        if isinstance(node, ast.ClassDef)
    )


_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def _with_variables(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_variables(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    loose = {key: _with_variables(value) for key, value in schema.items()}
    if schema.get("type") in ("integer", "number", "boolean"):
        outer = {
            key: loose.pop(key)
            for key in ("default", "description", "title")
            if key in loose
        }
        return {"anyOf": [loose, _VARIABLE], **outer}
    return loose
