"""Plain Python that knows nothing of Airflow; each folder holds one idea."""
