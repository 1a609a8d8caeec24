"""What the verbs of `python -m include.workspace` do: reading files, checking them, showing what was found.

Each verb is a function of values that the command line (include/workspace/cli.py) calls. Nothing here may import
Airflow or a Kubernetes client, or ask a cluster. Only `check --hub` uses the network: a check starts in half a second,
anywhere.
"""
