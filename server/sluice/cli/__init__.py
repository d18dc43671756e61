"""The command line, over everything else; start at main.py."""
