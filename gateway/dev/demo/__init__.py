"""edge. Development only: small services behind the gateway in `make dev`.

They don't use SuperTokens. They take the user from `X-User-Id`, because the gateway
removes every such field that a client sends and sets its own.
"""
