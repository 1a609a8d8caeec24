"""A one-machine stand-in for a cluster, a cloud and a registry, for the demo and the tests.

It is a development tool: production is a real cluster. It must never import Airflow, Workspaces or workloads,
because what is proved against it has to hold against any cluster.
"""
