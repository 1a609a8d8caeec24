"""What retraining decides: when it is due, what a change of the data is, how versions are called, what a policy says.

Pure: moments, marks and numbers go in, verdicts and sentences come out. It knows no Workspace, no cluster and no
Airflow, so that the check on the command line, the reconciler and a run's tasks cannot disagree.
"""
