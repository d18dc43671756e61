"""The wire's messages, generated from protos/ by `make protos` and never edited; pool.py keeps them to themselves."""
