"""What hostile bytes do to the gateway: cases as data, and what plays them.

`*.yaml` hold the cases, one file per table of the attack list. `cases` reads them,
`rig` is a gateway on real sockets before an upstream that keeps every byte, `play`
sends a case in several ways and judges what came of it, `readers` asks other HTTP
parsers how they read what was forwarded.

`PYTHONPATH=tests python -m corpus` writes docs/security-cases.md.
"""
