"""PURE. A decision → what an authorizer of API Gateway returns.

A policy is for exactly the method that was asked about. A result that API Gateway keeps
(its default for REST APIs is 5 minutes) would open other methods with a wildcard.

The context has a key for each identity field, always all of them: `X-User-Id` is
`x_user_id`. API Gateway maps the keys to fields, which replaces the client's own. Its
values are texts; one that isn't set is empty.

Source: the AWS documentation of the output of Lambda authorizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

from gateway.aws.events import BadEvent, Event
from gateway.fronts.verdicts import names_of
from gateway.http.fields import Fields
from gateway.responses import Response
from gateway.routes import Route

_VERSION: Final = "2012-10-17"
"""Of the policy language; there is no later one."""
_ANONYMOUS_ID: Final = "anonymous"


class AnswerForm(StrEnum):
    """What the authorizer returns."""

    POLICY = "policy"
    """REST APIs, and HTTP APIs with the payload format 1.0."""
    SIMPLE = "simple"
    """HTTP APIs with the payload format 2.0 and simple responses."""


def form_of(event: Event) -> tuple[AnswerForm, str]:
    """Return the form of the answer, and the ARN of the method that is asked about.

    Raises:
        BadEvent: it isn't the event of an authorizer of the type REQUEST.
    """
    if event.get("type") != "REQUEST":
        raise BadEvent("the event isn't that of an authorizer of the type REQUEST")
    is_simple = event.get("version") == "2.0"
    arn = event.get("routeArn" if is_simple else "methodArn")
    if not isinstance(arn, str) or not arn or "*" in arn or "?" in arn:
        raise BadEvent("the event names no single method")
    return AnswerForm.SIMPLE if is_simple else AnswerForm.POLICY, arn


def context_key(name: str) -> str:
    """Return the key that the field *name* has in the context."""
    return name.lower().replace("-", "_")


def identity_names(routes: Iterable[Route]) -> tuple[str, ...]:
    """Return the names of all fields that only the gateway may set, for *routes*."""
    return tuple(name.decode() for name in names_of(routes))


def context_of(identity: Fields, names: Iterable[str]) -> Mapping[str, str]:
    """Return the context for *identity*; of *names*, those it lacks are empty."""
    context = {context_key(name): "" for name in names}
    for name, value in identity:
        context[context_key(name.decode())] = value.decode()
    return context


def allowed(
    form: AnswerForm, arn: str, user_id: str | None, context: Mapping[str, str]
) -> dict[str, Any]:
    """Return the answer that lets the request pass; *user_id* None: anonymous."""
    if form is AnswerForm.SIMPLE:
        return {"isAuthorized": True, "context": dict(context)}
    return _policy("Allow", arn, user_id or _ANONYMOUS_ID, context)


def denied(form: AnswerForm, arn: str, answer: Response) -> dict[str, Any]:
    """Return the answer that doesn't let the request pass.

    The context has the status and the body of the gateway's own *answer*, for the
    template of API Gateway's response ACCESS_DENIED.
    """
    context = {"status": str(answer.status), "body": answer.body.decode()}
    if form is AnswerForm.SIMPLE:
        return {"isAuthorized": False, "context": context}
    return _policy("Deny", arn, _ANONYMOUS_ID, context)


def _policy(
    effect: str, arn: str, principal_id: str, context: Mapping[str, str]
) -> dict[str, Any]:
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": arn}
    return {
        "principalId": principal_id,
        "policyDocument": {"Version": _VERSION, "Statement": [statement]},
        "context": dict(context),
    }
