"""Kubernetes' own controllers, one a file, each level-triggered.

A controller must never depend on having seen an event: it reads the cluster, compares, acts, and may run again at any
time.
"""
