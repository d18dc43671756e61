"""Bytes to requests and answers to bytes, nothing more. May import everything below; start at status.py."""
