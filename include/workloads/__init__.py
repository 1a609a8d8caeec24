"""What runs inside pods: one package a workload, each started as `python -m include.workloads.<name>`.

It ships in its own image, so it must never import another folder of `include`, nor Airflow.
"""
