"""Names of parameters in templates."""

from __future__ import annotations

from gateway.aws.templates import parameters, template


def test_parameters_have_letters_and_digits_only() -> None:
    """And differ from each other, though CloudFormation has no underscores."""
    made = parameters(["API_KEY", "api_key", "_1", "CORE"])
    assert made == {
        "API_KEY": "ApiKey",
        "api_key": "Variable2",
        "_1": "Variable3",
        "CORE": "Core",
    }


def test_no_variables() -> None:
    """Then there are no parameters."""
    assert "Parameters" not in template("sam", [], "python3.13")
    assert "variable" not in template("terraform", [], "python3.13").replace(
        "variables", ""
    )
