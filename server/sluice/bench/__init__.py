"""Open-loop load on any server of the protocol. Imports only the nouns and pb; start at session.py.

Requests are sent at the times of a schedule made beforehand, whether or not earlier ones were answered, and latency
counts from the scheduled time. A server that stalls therefore cannot hide the requests it kept from being sent.
"""
