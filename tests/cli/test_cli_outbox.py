"""`gateway serve --outbox`: mails go to files, for development."""

from __future__ import annotations

import json
from pathlib import Path

from processes import command, serving
from wire import ask

from gateway.dev.core import CoreSettings, serve

ROUTES = """\
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes:
    passwordless: {contact_method: EMAIL, flow_type: USER_INPUT_CODE_AND_MAGIC_LINK}
routes: [{path: /, upstream: "http://127.0.0.1:1"}]
"""


async def test_the_outbox_has_the_mail_and_says_so(tmp_path: Path) -> None:
    """The mail's link and code are in a file, and the start warns of that."""
    file, outbox = tmp_path / "routes.yaml", tmp_path / "outbox"
    file.write_text(ROUTES)
    async with (
        serve(CoreSettings()) as core,
        command(
            *("serve", "-c", file, "--outbox", outbox),
            cwd=tmp_path,
            environ={"CORE": core.url},
        ) as process,
    ):
        port = await serving(process)
        reply = await ask(
            port,
            "POST",
            "/auth/signinup/code",
            ("Content-Type", "application/json"),
            body=json.dumps({"email": "ann@example.com"}).encode(),
        )
        assert reply.json()["status"] == "OK"
        said = await process.until_said(rb"mail to ann@example\.com .*\n.*\n +(\d+)\n")
        assert b"WARNING mails are written to " in process.err
    (mail,) = outbox.iterdir()
    assert mail.read_text().endswith(f"\n{said[1].decode()}\n")
