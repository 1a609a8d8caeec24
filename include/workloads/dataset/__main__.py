"""`python -m include.workloads.dataset`: the dataset pod."""

from include.workloads.contract import run
from include.workloads.dataset.job import run_job
from include.workloads.dataset.request import from_environment

if __name__ == "__main__":
    run(lambda: run_job(from_environment()))
