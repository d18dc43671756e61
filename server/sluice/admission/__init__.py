"""Whether a request may come in, and to whom. Imports the nouns, scheduler and telemetry; start at validation.py."""
