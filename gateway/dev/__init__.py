"""edge. Development only: the programs that run beside the gateway on one machine.

None of them serves production traffic.
"""
