"""Says how well a version computes: on whose data, how near to another version, and whether it stays within numbers.

May import store, backends, config, the nouns; read `evaluate.py` first. `data.py`, `runner.py` and `measures.py` serve
quantizing as well.
"""
