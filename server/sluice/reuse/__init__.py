"""Answers used again: in this process (`answers.py`, `identity.py`), and between replicas (`redis.py`).

May import whatever is below `workers`.
"""
