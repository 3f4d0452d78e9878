"""PURE. Templates that deploy the function, and the mapping of an authorizer.

They are to be read and changed: each is complete, with an HTTP API that sends all
requests to the function.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from gateway.aws.policies import context_key

TemplateForm = Literal["sam", "terraform"]
MappingForm = Literal["http-api", "rest-api"]
ZIP: Final = "dist/aws.zip"
"""What `make aws-zip` makes."""

_MEMORY_MB: Final = 1024
"""The CPU time of a function is proportional to it; a start takes mostly CPU."""
_TIMEOUT_S: Final = 30
"""An HTTP API waits no longer."""


def mapping(names: Iterable[str], form: MappingForm) -> str:
    """Return the request parameters of an integration, in JSON.

    Each of *names*, the identity fields, is replaced by what the authorizer says.

    Source: the AWS documentation of parameter mapping for HTTP and REST APIs.
    """
    if form == "http-api":
        made = {
            f"overwrite:header.{name}": f"$context.authorizer.{context_key(name)}"
            for name in names
        }
    else:
        made = {
            f"integration.request.header.{name}": (
                f"context.authorizer.{context_key(name)}"
            )
            for name in names
        }
    return json.dumps(made, indent=2)


def template(form: TemplateForm, variables: Sequence[str], runtime: str) -> str:
    """Return a template in *form*.

    *variables* are those of the environment that the route table names. *runtime* is
    AWS' name of a Python version: that of the zip file.
    """
    names = tuple(dict.fromkeys(variables))
    return _sam(names, runtime) if form == "sam" else _terraform(names, runtime)


def parameters(variables: Iterable[str]) -> Mapping[str, str]:
    """Return a name of a parameter for each variable: letters and digits only."""
    made: dict[str, str] = {}
    for number, variable in enumerate(variables, 1):
        name = "".join(word.capitalize() for word in variable.split("_"))
        if not name[:1].isalpha() or name in made.values():
            name = f"Variable{number}"
        made[variable] = name
    return made


def _sam(variables: Sequence[str], runtime: str) -> str:
    names = parameters(variables)
    lines = [
        "# sam deploy --guided --template-file template.yaml",
        f"# Make {ZIP} first: make aws-zip CONFIG=routes.yaml",
        'AWSTemplateFormatVersion: "2010-09-09"',
        "Transform: AWS::Serverless-2016-10-31",
        "Description: supertokens-gateway as a function behind an HTTP API",
    ]
    if names:
        lines.append("Parameters: # the variables that the route table names")
        lines += [f"  {one}: {{Type: String, NoEcho: true}}" for one in names.values()]
    lines += [
        "Resources:",
        "  Gateway:",
        "    Type: AWS::Serverless::Function",
        "    Properties:",
        "      Handler: gateway.aws.handler",
        f"      Runtime: {runtime}",
        "      Architectures: [x86_64] # the one of the zip file",
        f"      CodeUri: {ZIP}",
        f"      MemorySize: {_MEMORY_MB} # CPU time is proportional to it",
        f"      Timeout: {_TIMEOUT_S} # seconds; an HTTP API waits no longer",
        "      Environment:",
        "        Variables:",
        "          GATEWAY_CONFIG: routes.yaml",
        "          GATEWAY_LOG_FORMAT: json",
        *(f"          {one}: {{Ref: {name}}}" for one, name in names.items()),
        "      Events:",
        "        All: # every method and path; CORS is the gateway's",
        "          Type: HttpApi",
        '          Properties: {PayloadFormatVersion: "2.0"}',
        "Outputs:",
        "  Url:",
        f'    Value: {{Fn::Sub: "{_URL}"}}',
    ]
    return "\n".join(lines) + "\n"


def _terraform(variables: Sequence[str], runtime: str) -> str:
    declared = [
        f'variable "{name}" {{\n  type      = string\n  sensitive = true\n}}\n'
        for name in variables
    ]
    text = (
        _TERRAFORM.replace("@RUNTIME@", runtime)
        .replace("@ZIP@", ZIP)
        .replace("@MEMORY@", str(_MEMORY_MB))
        .replace("@TIMEOUT@", str(_TIMEOUT_S))
        .replace(
            "@ENVIRONMENT@\n",
            "".join(f"      {name} = var.{name}\n" for name in variables),
        )
    )
    return "\n".join((_PROVIDER, *declared, text))


_URL: Final = "https://${ServerlessHttpApi}.execute-api.${AWS::Region}.amazonaws.com"
_PROVIDER: Final = f"""\
# Make {ZIP} first: make aws-zip CONFIG=routes.yaml
terraform {{
  required_providers {{
    aws = {{ source = "hashicorp/aws" }}
  }}
}}
"""
_TERRAFORM: Final = """\
resource "aws_iam_role" "gateway" {
  name_prefix = "gateway-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "gateway_logs" {
  role       = aws_iam_role.gateway.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
}

resource "aws_lambda_function" "gateway" {
  function_name    = "gateway"
  role             = aws_iam_role.gateway.arn
  handler          = "gateway.aws.handler"
  runtime          = "@RUNTIME@"
  architectures    = ["x86_64"] # the one of the zip file
  filename         = "@ZIP@"
  source_code_hash = filebase64sha256("@ZIP@")
  memory_size      = @MEMORY@ # CPU time is proportional to it
  timeout          = @TIMEOUT@ # seconds; an HTTP API waits no longer

  environment {
    variables = {
      GATEWAY_CONFIG     = "routes.yaml"
      GATEWAY_LOG_FORMAT = "json"
@ENVIRONMENT@
    }
  }
}

resource "aws_apigatewayv2_api" "gateway" {
  name          = "gateway"
  protocol_type = "HTTP" # no cors_configuration: CORS is the gateway's
}

resource "aws_apigatewayv2_integration" "gateway" {
  api_id                 = aws_apigatewayv2_api.gateway.id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_function.gateway.invoke_arn
  payload_format_version = "2.0"
}

resource "aws_apigatewayv2_route" "all" {
  api_id    = aws_apigatewayv2_api.gateway.id
  route_key = "$default"
  target    = "integrations/${aws_apigatewayv2_integration.gateway.id}"
}

resource "aws_apigatewayv2_stage" "default" {
  api_id      = aws_apigatewayv2_api.gateway.id
  name        = "$default"
  auto_deploy = true
}

resource "aws_lambda_permission" "api" {
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.gateway.function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.gateway.execution_arn}/*"
}

output "url" {
  value = aws_apigatewayv2_api.gateway.api_endpoint
}
"""
