"""Breaks a real server on purpose while it is asked questions whose answers are known. Start at __main__.py.

`schedule.py` says what is broken and when, `injection.py` breaks it, `load.py` asks meanwhile, `ledger.py` keeps
account of every request, `watch.py` sees the workers fall and come back, `report.py` writes the page; `soak.py` breaks
nothing and looks for drift. Only what any client or operator has is used: the two protocols, the metrics page, signals,
the network and the disk, and a Python model that misbehaves.
"""
