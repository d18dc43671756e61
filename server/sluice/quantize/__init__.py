"""Versions made smaller and faster within a stated accuracy, offline. Imports only the store, the evaluation and the
nouns; start at maker.py."""
