"""Airflow's side of KAITO: hooks, operators, sensors and triggers that carry a Workspace to its answer.

The package is a thin shell around ``include``: decisions (plan, manifests, conditions) are pure functions
there; here values are carried in and out of the cluster. It must never be seen by Airflow's plugin loader
(see ``plugins/.airflowignore``) and must never do I/O at import.
"""
