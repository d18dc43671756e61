"""Which batch runs next, and what becomes of the requests of one that fails. Everything is pure but loop.py, the only
clock and await.

May import telemetry and the nouns; start at policy.py.
"""
