"""The gRPC front end; start at server.py, which hands bytes through handlers.py to servicer.py.

May import what `frontends` may. Only server.py and handlers.py know grpc; the rest work on bytes and metadata,
the waist in call.py, so that another HTTP/2 implementation could take their place.
"""
