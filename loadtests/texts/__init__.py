"""What texts cost, from tokenizing to the answer. `__main__.py` runs all of it."""
