FROM astrocrpublic.azurecr.io/runtime:3.3-2
# A worker that dies is noticed within half a minute, so that the GPUs that it was about to release do not wait for long.
ENV AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT=30 \
    AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL=5
