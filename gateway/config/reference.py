"""PURE. The reference of all keys of `routes.yaml`: Markdown tables, from the models.

The text of a key is its docstring in `models`; a paragraph that begins with `Risk:` is
its risk. `make docs` writes the tables to docs/configuration.md.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config import models
from gateway.config.schema import definitions, docstrings

_FORMS: Mapping[str, str] = {
    "AbsolutePath": "whole path of a file",
    "AnswerStatus": "status",
    "Any": "any value",
    "RuleCode": "code of a rule",
    "AllowedField": "field name",
    "ApiKey": "text",
    "Burst": "number from 1",
    "Bytes": "size",
    "Cidr": "network",
    "ClaimPath": "claim",
    "Case": "`METHOD PATH`: what it gets, or keys",
    "CookieDomain": "domain",
    "Day": "day: `2027-01-31`",
    "CookieDomainChange": "`remove`, `keep` or a domain",
    "CoreUri": "URLs",
    "Cost": "number from 1",
    "Dotted": "dotted name",
    "EditedReplyField": "field name",
    "EditedRequestField": "field name",
    "FieldName": "field name",
    "FieldValue": "text",
    "Expects": "mapping",
    "Flag": "true or false",
    "HostHeader": "`upstream`, `preserve` or a host",
    "HostName": "host",
    "HostPattern": "host",
    "Hosts": "list: host",
    "IdentityHeader": "field name",
    "IdentityTemplate": "template",
    "Listen": "host:port",
    "LimitKey": "`client`, `user`, …",
    "ListenPlace": "address",
    "LoggedStatus": "status or class",
    "Mail": "mail address",
    "Method": "method",
    "Methods": "list: method",
    "Name": "name",
    "Needs": "`session` or keys",
    "NotNegative": "number",
    "Origin": "origin",
    "OriginPattern": "origin",
    "OwnPath": "path",
    "Path": "path",
    "Paths": "path, keys, or a list of both",
    "Port": "port",
    "Positive": "number from 1",
    "Prefix": "path",
    "Protected": "true, false or `optional`",
    "Recipe": "recipe",
    "Rate": "rate",
    "RateUses": "name, or a list of names",
    "RedirectTarget": "URL with places",
    "Regex": "regex",
    "RetryOn": "`connect`, `reset`, `502`, `503` or `504`",
    "RouteOrigin": "origin or `*`",
    "Seconds": "duration",
    "Rewrite": "`strip` or keys",
    "Share": "number up to 1",
    "Site": "origin",
    "SocketMode": "octal digits",
    "SocketOwner": "user:group",
    "TargetUrl": "URL",
    "Template": "template",
    "Status": "status",
    "Text": "text",
    "TlsVersion": "`1.2` or `1.3`",
    "ToHttps": "true, false or a port",
    "TrustedPeer": "network or `unix`",
    "UpToFive": "number from 0 to 5",
    "Upstream401": "`pass`, `403` or `502`",
    "str": "text",
}
"""The word for a form in the tables, by its name in `forms`."""

_ELSEWHERE: Mapping[type[BaseModel], tuple[type[BaseModel], ...]] = {
    models.AlwaysConfig: (models.RequireConfig,),
    models.GroupConfig: (models.RouteConfig,),
    models.MatchConfig: (models.PathMatchConfig,),
    models.RequireConfig: (models.ConditionsConfig,),
    models.ServiceConfig: (
        models.ClientsConfig,
        models.IdentityConfig,
        models.RateUseConfig,
        models.RequireConfig,
        models.SessionPatch,
    ),
    models.AuthRateLimitsConfig: (models.RateUseConfig,),
}
"""Models whose keys are listed elsewhere, by the model with a key for them."""

_UNITS_S = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
_UNITS_BYTES = ((1024**2, "MiB"), (1024, "KiB"), (1, "bytes"))


class _Row(NamedTuple):
    key: str
    form: str
    default: str
    text: str


def markdown() -> str:
    """Return one table for each section of `routes.yaml`, in the file's order."""
    sections: dict[str, list[_Row]] = {}
    for row in _rows(models.Config, ""):
        section = row.key.partition(".")[0].removesuffix("[]")
        sections.setdefault(section, []).append(row)
    lines: list[str] = []
    for section, rows in sections.items():
        lines += [f"### `{section}`", ""]
        lines += ["| key | form | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{row.key}` | {row.form} | {row.default} | {row.text} |" for row in rows
        ]
        lines.append("")
    return "\n".join(lines)


def _rows(model: type[BaseModel], before: str) -> Iterator[_Row]:
    """Yield a row for each key of *model*, followed by the rows of the keys in it."""
    docs = docstrings()
    annotations = _annotations()
    written = annotations[model.__name__]
    shared: tuple[str, ...] = ()
    if model is models.GroupConfig:
        shared = tuple(models.RouteSettings.model_fields)
    own = model.__annotations__
    for name, field in sorted(
        model.model_fields.items(), key=lambda item: item[0] not in own
    ):
        if name in shared:
            continue
        key = field.alias or name
        inner, suffix = _inner(written[name])
        text = docs[model.__name__].get(key)
        if text is None:
            assert inner is not None, f"{model.__name__}.{key} has no docstring"
            text = inspect.cleandoc(inner.__doc__ or "")
        yield _Row(
            before + key,
            _escaped(_form(written[name])),
            _escaped(_default(field, written[name])),
            _escaped(_paragraph(text)),
        )
        if inner is not None and inner not in _ELSEWHERE.get(model, ()):
            yield from _rows(inner, f"{before}{key}{suffix}.")
    if shared:
        yield _Row(
            f"{before}<key>",
            "as of a route",
            "unset",
            f"Every key of a route from `{shared[0]}` to `{shared[-1]}`, for all of the"
            " group's routes.",
        )


@cache
def _annotations() -> Mapping[str, Mapping[str, ast.expr]]:
    """Return the annotation of each field of each model: the names of its forms."""
    result: dict[str, dict[str, ast.expr]] = {}
    for node in definitions():
        fields = result.setdefault(node.name, {})
        for base in node.bases:
            fields |= result.get(ast.unparse(base), {})
        fields |= {
            item.target.id: item.annotation
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
    return result


def _inner(written: ast.expr) -> tuple[type[BaseModel] | None, str]:
    """Return the model in an annotation, and the text between its key and its keys."""
    suffix = ""
    text = ast.unparse(written)
    if text.startswith("dict["):
        suffix = ".<name>"
    elif "tuple[" in text:
        suffix = "[]"
    for node in ast.walk(written):
        if isinstance(node, ast.Name):
            if node.id == "Paths":
                return models.PathMatchConfig, ""
            if node.id == "Rewrite":
                return models.RewriteConfig, ""
            if node.id == "RateUses":
                return models.RateUseConfig, "[]"
            if node.id == "Case":
                return models.CaseConfig, "[]"
            if node.id == "Expects":
                return models.ExpectedConfig, ".<name>"
            for file in models.FILES:
                model = getattr(file, node.id, None)
                if isinstance(model, type) and issubclass(model, BaseModel):
                    return model, suffix
    return None, ""


def _form(written: ast.expr) -> str:
    """Return the form of a key's value, in words."""
    match written:
        case ast.Name(id=name):
            return _FORMS.get(name, "keys")
        case ast.BinOp(left=left, right=ast.Constant(value=None)):
            return _form(left)
        case ast.BinOp(left=left, right=right):
            return f"{_form(left)} or {_form(right)}"
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=values)):
            return ", ".join(f"`{ast.literal_eval(value)}`" for value in values)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=value):
            return f"`{ast.literal_eval(value)}`"
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Tuple(elts=[item, *_])):
            if name == "Annotated":
                return _form(item)
            if name == "dict":
                return "mapping"
            return f"list: {_form(item)}"
        case _:  # pragma: no cover - no model uses another annotation
            raise AssertionError(f"no word for {ast.unparse(written)}")


def _default(field: FieldInfo, written: ast.expr) -> str:
    """Return a field's default with its unit."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    match value:
        case None:
            return "unset"
        case () | "":
            return "empty"
        case bool():
            return str(value).lower()
        case float() if "Share" in ast.unparse(written):
            return f"`{value:g}`"
        case float():
            return _quantity(value, _UNITS_S)
        case int() if "Bytes" in ast.unparse(written):
            return _quantity(value, _UNITS_BYTES)
        case dict() if value:
            return ", ".join(f"`{key}`" for key in value)
        case dict() | BaseModel():
            return ""
        case (BaseModel() | str(), *_):
            return ", ".join(f"`{item}`" for item in value)
        case _:
            return f"`{value}`"


def _quantity(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """Return *value* in the largest of *units* that makes it a whole number."""
    fits = (unit for unit in units if value >= unit[0] and value % unit[0] == 0)
    size, name = next(fits, units[-1])
    return f"{value / size:g} {name}"


def _paragraph(text: str) -> str:
    """Return a docstring as one paragraph, its risk in bold."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return " ".join(paragraphs).replace("Risk: ", "**Risk:** ")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
