"""Clients from hell beside good ones: what each attack takes away from those who behave. Start at __main__.py."""
