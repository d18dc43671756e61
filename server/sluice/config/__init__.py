"""Settings: frozen, sectioned, validated once. May import only errors; start at settings.py, then sources.py."""
