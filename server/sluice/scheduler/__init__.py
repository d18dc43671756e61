"""Which batch runs next. queue.py and policy.py are pure, loop.py is the only clock and await.

May import telemetry and the nouns; start at policy.py.
"""
