"""Whether a request may come in. Imports the nouns; start at validation.py."""
