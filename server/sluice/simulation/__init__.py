"""The scheduler in virtual time: its own objects, made-up or recorded traffic, and published rules to compare with.

May import scheduler, admission, charts and the nouns; start at events.py, then sluice_rule.py and rivals.py.
"""
