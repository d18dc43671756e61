"""Load from outside and measurements; not part of the package. Start at bench.py."""
