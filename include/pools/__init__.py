"""GPU pools as pure values: what their machines' state is, from what was observed, and why a pool is not ready.

Operators, triggers and the reconciler share these judgements, so that they cannot disagree. Nothing here may talk to a
cluster or a cloud.
"""
