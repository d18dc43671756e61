"""Model files that can be read only with a key: their form, and the keys.

May import errors, since a worker process decrypts too; the package `cryptography` is imported only where it is needed.
Start at container.py.
"""
