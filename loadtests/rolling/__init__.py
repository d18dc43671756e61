"""Restarts that nobody notices: servers replaced one by one behind real proxies, under the load of real clients.

`python -m loadtests.rolling` is the entry; it reads from there.
"""
