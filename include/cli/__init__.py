"""`python -m include.cli VERB`: the command line for people and CI. Each verb is a module of its own.

Nothing here may import Airflow or a Kubernetes client at the start. Only `check --hub`, `resolve`, `presets --hub` and
`cost` use the network: a check starts in a fraction of a second, anywhere.
"""
