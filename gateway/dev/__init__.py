"""edge. Development only: what a developer runs beside the gateway on one machine.

Nothing in here takes part in serving production traffic.
"""
