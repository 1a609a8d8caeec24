"""The sandbox's cloud: NodeClaims become Nodes after a delay, and every second that a machine runs is written down.

It must never forget a machine: what was started is in the ledger until it is stopped.
"""
