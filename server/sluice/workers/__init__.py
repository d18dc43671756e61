"""Worker processes and the shared memory they compute in.

May import everything below; start at pool.py, on the far side at child.py.
"""
