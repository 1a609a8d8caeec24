"""What people see of Workspaces: rows, pages and sentences, as values made of what the cluster and Airflow hold.

Airflow's pages and the terminal view show the same values, so that both say the same. Everything here is a pure
function; nothing escapes text for HTML (the templates do), nothing may show a secret (`include.contracts.redaction`).
"""
