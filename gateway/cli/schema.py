"""edge. `gateway schema`: prints the JSON schema of the route table."""

from __future__ import annotations

import click


@click.command()
def schema() -> None:
    """Print the JSON schema of the route table, for editors."""
    import json

    from gateway.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
