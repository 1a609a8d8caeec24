"""The main job on one machine: sandbox, registry, Airflow, one Workspace from `kubectl apply` to an answer.

It drives the product only through what a user has (kubectl, Airflow's REST API, the Service's HTTP), so that what
it shows is what they get. Product code must never import it.
"""
