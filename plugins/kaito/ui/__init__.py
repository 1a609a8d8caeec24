"""The pages about Workspaces in Airflow's UI, and the JSON API that is the same: see app.py.

Whoever may see or start runs of the DAGs that do the work may see Workspaces, or act on them; nothing else is asked
(access.py). What is shown is made in include/views. Nothing here may show a secret, or wait for a cluster for ever.
"""
