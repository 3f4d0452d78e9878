"""What an authorizer returns to API Gateway."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.aws import policies
from gateway.aws.events import BadEvent
from gateway.aws.policies import AnswerForm, context_of, form_of
from gateway.headers.attach import ANONYMOUS
from gateway.responses import no_route

ARN = "arn:aws:execute-api:eu-west-1:1:abc/prod/GET/orders"
POLICY = {"type": "REQUEST", "methodArn": ARN}
SIMPLE = {"type": "REQUEST", "version": "2.0", "routeArn": ARN}


@pytest.mark.parametrize(
    ("event", "form"),
    [
        (POLICY, AnswerForm.POLICY),
        ({**POLICY, "version": "1.0"}, AnswerForm.POLICY),
        (SIMPLE, AnswerForm.SIMPLE),
    ],
)
def test_the_form_follows_from_the_event(event: Any, form: AnswerForm) -> None:
    """And the ARN is the one that was asked about."""
    assert form_of(event) == (form, ARN)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "TOKEN", "methodArn": ARN},
        {"methodArn": ARN},
        {"type": "REQUEST"},
        {"type": "REQUEST", "methodArn": ""},
        {"type": "REQUEST", "methodArn": ARN.replace("orders", "*")},
        {"type": "REQUEST", "methodArn": ARN.replace("GET", "?")},
        {"type": "REQUEST", "version": "2.0", "methodArn": ARN},
    ],
)
def test_no_answer_covers_several_methods(event: Any) -> None:
    """An ARN with a wildcard would open what nobody has asked about."""
    with pytest.raises(BadEvent):
        form_of(event)


def test_the_context_has_every_name() -> None:
    """A key that is missing would let the client's own field pass."""
    names = ("X-User-Id", "X-Tenant-Id", "X-Auth-Status", "X-Team")
    identity = ((b"X-User-Id", b"ann"), (b"X-Auth-Status", b"authenticated"))
    assert context_of(identity, names) == {
        "x_user_id": "ann",
        "x_tenant_id": "",
        "x_auth_status": "authenticated",
        "x_team": "",
    }
    anonymous = context_of((ANONYMOUS,), names)
    assert anonymous == {
        **dict.fromkeys(anonymous, ""),
        "x_auth_status": "anonymous",
    }


@pytest.mark.parametrize("form", AnswerForm)
def test_every_value_of_a_context_is_text(form: AnswerForm) -> None:
    """API Gateway answers 500 if one isn't."""
    for answer in (
        policies.allowed(form, ARN, None, context_of((), ["X-A"])),
        policies.denied(form, ARN, no_route("id")),
    ):
        assert all(type(value) is str for value in answer["context"].values())


def test_a_policy_names_one_method() -> None:
    """For a yes and for a no."""
    yes = policies.allowed(AnswerForm.POLICY, ARN, "ann", {})
    no = policies.denied(AnswerForm.POLICY, ARN, no_route("id"))
    assert yes["principalId"] == "ann"
    for answer, effect in ((yes, "Allow"), (no, "Deny")):
        assert answer["policyDocument"]["Statement"] == [
            {"Action": "execute-api:Invoke", "Effect": effect, "Resource": ARN}
        ]


def test_a_simple_answer() -> None:
    """For HTTP APIs."""
    yes = policies.allowed(AnswerForm.SIMPLE, ARN, "ann", {"x_user_id": "ann"})
    assert yes == {"isAuthorized": True, "context": {"x_user_id": "ann"}}
    no = policies.denied(AnswerForm.SIMPLE, ARN, no_route("id"))
    assert no["isAuthorized"] is False
    assert no["context"]["status"] == "404"
