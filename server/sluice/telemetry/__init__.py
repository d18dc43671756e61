"""What is counted, logged and exposed. Imports config and the nouns; start at record.py."""
