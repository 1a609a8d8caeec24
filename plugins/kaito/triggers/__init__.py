"""What waits: coroutines in the triggerer that watch the cluster and end their task themselves."""
