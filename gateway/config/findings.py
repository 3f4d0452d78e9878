"""PURE. Findings: what is wrong with a configuration, in sentences for people.

Most of them are pydantic's errors, turned into a message and a remedy. None repeats a
value: it may be a secret or come from the environment. The line and column show where
the value is.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

Loc = tuple[str | int, ...]
"""A place in the file: `("routes", 2, "match", "path")`; empty for the whole file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A mistake or a doubtful setting at one place."""

    loc: Loc
    message: str
    hint: str = ""
    """The remedy, as a sentence."""
    see: Loc | None = None
    """The other place, if two contradict each other."""
    at_key: bool = False
    """The key is wrong, not its value."""

    @property
    def path(self) -> str:
        """The place as text: `routes[2].match.path`."""
        return path(self.loc)


def path(loc: Loc) -> str:
    """Return *loc* as text: `routes[2].match.path`."""
    return "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc
    ).removeprefix(".")


class InvalidConfig(ValueError):
    """The configuration can't be used; `findings` has every reason.

    It isn't a `GatewayError`: it doesn't occur while a request is answered.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(
            "\n".join(
                f"{finding.path}: {finding.message}. {finding.hint}".removesuffix(". ")
                for finding in self.findings
            )
        )


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """Return the error for a validator of one value to raise."""
    return PydanticCustomError("wrong", "{message}", {"message": message, "hint": hint})


def reject(findings: Iterable[Finding]) -> None:
    """Raise the findings of a validator of a whole model; return if there are none.

    Raises:
        ValidationError: there are findings. pydantic puts the model's own place
            before each of their places.
    """
    errors = [
        InitErrorDetails(
            type=wrong(finding.message, finding.hint), loc=finding.loc, input=None
        )
        for finding in findings
    ]
    if errors:
        raise ValidationError.from_exception_data("config", errors)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return `Did you mean 'orders'?`, or empty text if no known word is similar."""
    near = get_close_matches(str(word), tuple(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def explain(
    error: ValidationError, root: type[BaseModel], data: object
) -> Iterator[Finding]:
    """Yield pydantic's errors as findings.

    *root* is the model that was validated; its fields are the known keys. *data* is
    what was validated: a place within the long form of a value that the file has in a
    short form is reported as the value's place.
    """
    errors = error.errors(include_url=False)
    # pydantic doesn't count a list's invalid items and reports the list as too short,
    # too: that error is left out.
    parents = {
        details["loc"][:end] for details in errors for end in range(len(details["loc"]))
    }
    for details in errors:
        loc = details["loc"]
        if details["type"] != "too_short" or loc not in parents:
            key = loc[-1:] == ("[key]",)
            finding = _finding(loc[:-1] if key else loc, details, root)
            yield replace(finding, loc=_in_file(finding.loc, data))


def _in_file(loc: Loc, data: object) -> Loc:
    """Return the part of *loc* that *data* has."""
    steps: list[str | int] = []
    for step in loc:
        if isinstance(data, Mapping):
            if step in data:
                data = data[step]
            elif isinstance(step, int):
                continue  # the only item of a list that has no brackets in the file
            else:
                break
        elif isinstance(data, list | tuple) and step in range(len(data)):
            data = data[int(step)]
        else:
            break
        steps.append(step)
    return tuple(steps)


_EXPECTED = {
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "the number is too large",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
}
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on"), "true"),
    **dict.fromkeys(("false", "no", "off"), "false"),
}


def _finding(loc: Loc, details: ErrorDetails, root: type[BaseModel]) -> Finding:
    context = details.get("ctx", {})
    match details["type"]:
        case "wrong":
            return Finding(
                loc=loc,
                message=context["message"],
                hint=context["hint"],
                at_key=details["loc"][-1:] == ("[key]",),
            )
        case "extra_forbidden":
            known = list(_fields(root, loc[:-1]))
            hint = did_you_mean(loc[-1], known)
            if loc[-1] == "<<":
                hint = "YAML's merge keys aren't supported: write the keys out"
            elif not hint:
                hint = f"Known keys here: {', '.join(known)}"
            message = f"unknown key '{loc[-1]}'"
            return Finding(loc=loc, message=message, hint=hint, at_key=True)
        case "missing":
            key = str(loc[-1])
            annotation = _fields(root, loc[:-1])[key]
            return Finding(
                loc=loc[:-1],
                message=f"the key '{key}' is missing",
                hint=_addition(key, annotation),
            )
        case "literal_error":
            expected = str(context["expected"])
            hint = did_you_mean(details["input"], expected.split("'")[1::2])
            return Finding(loc=loc, message=f"expected {expected}", hint=hint)
        case "greater_than":
            return Finding(loc=loc, message=f"must be more than {context['gt']:g}")
        case "greater_than_equal":
            return Finding(loc=loc, message=f"must be at least {context['ge']:g}")
        case "less_than_equal":
            return Finding(loc=loc, message=f"must be at most {context['le']:g}")
        case "string_too_short":
            return Finding(loc=loc, message="must not be empty")
        case "too_short":
            return Finding(loc=loc, message="expected at least one item")
        case kind:
            hint = ""
            if details["input"] is None:
                hint = "It is empty: write a value, or remove the key"
            elif kind == "tuple_type":
                hint = f"Put it in brackets: {loc[-1]}: […]"
            elif kind == "model_type":
                hint = f"Its keys are {', '.join(_fields(root, loc))}"
            elif kind == "bool_type" and str(details["input"]).lower() in _BOOLEANS:
                word = _BOOLEANS[str(details["input"]).lower()]
                hint = f"Write {word}, without quotes"
            message = _EXPECTED.get(kind, "this value isn't allowed here")
            return Finding(loc=loc, message=message, hint=hint)


def _addition(key: str, annotation: Any) -> str:
    """Return the remedy for a missing *key*."""
    if get_origin(annotation) is Literal:
        *others, last = map(str, get_args(annotation))
        return f"Write {key}: {', '.join(others)}{' or ' if others else ''}{last}"
    inner = _container(annotation)
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return f"Add it; its keys are {', '.join(inner.model_fields)}"
    return f"Add {key}: with a value"


def _fields(root: type[BaseModel], loc: Loc) -> dict[str, Any]:
    """Return the keys of the model at *loc*, as in the file, and their types."""
    here = _container(root)
    for step in loc:
        if get_origin(here) is tuple:
            here = _container(get_args(here)[0])
        elif get_origin(here) is dict:
            here = _container(get_args(here)[1])
        else:
            here = _container(here.model_fields[str(step)].annotation)
    # The model's own fields first, then those of its base.
    own = here.__annotations__
    fields = sorted(here.model_fields.items(), key=lambda item: item[0] not in own)
    return {field.alias or name: field.annotation for name, field in fields}


def _container(annotation: Any) -> Any:
    """Return the model, list or mapping that an annotation allows, or None."""
    origin = get_origin(annotation)
    if origin in (Annotated, Union, types.UnionType):
        return next(filter(None, map(_container, get_args(annotation))), None)
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model or origin in (tuple, dict) else None
