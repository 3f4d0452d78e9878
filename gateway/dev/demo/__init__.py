"""edge. Development only: small services that stand behind the gateway in `make dev`.

They know nothing of SuperTokens. Who is asking is what `X-User-Id` says, because
the gateway removes every such field that a client sends and sets its own.
"""
