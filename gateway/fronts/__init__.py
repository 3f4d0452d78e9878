"""edge. Decisions for proxies that own the connection: nginx, Caddy, Traefik, Envoy.

Such a front asks about each request and forwards it itself. `original` reads which
request is meant, `verdicts` writes the answer, `asked` serves the listener.
"""
