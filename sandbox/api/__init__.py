"""The sandbox's Kubernetes API server: a small protocol core that real clients cannot tell from the real one.

Where it differs from Kubernetes 1.36, the sandbox is wrong.
"""
