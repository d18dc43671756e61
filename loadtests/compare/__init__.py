"""Sluice beside other servers: the same model, requests and machine, in one interleaved run. Start at __main__.py."""
