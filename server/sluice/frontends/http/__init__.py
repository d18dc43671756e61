"""The HTTP front end: connections (protocol, exchange), then the application (api, oip, admin); start at server.py."""
