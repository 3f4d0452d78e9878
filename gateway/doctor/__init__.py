"""edge. `gateway doctor`: whether what is around the gateway is as it needs it.

`judgments` and `limits` (pure) say what facts mean. `peers`, `mail` and `surroundings`
gather them, and `examination` asks all peers at once.
"""
