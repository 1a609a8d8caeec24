"""Waits as tasks. A sensor holds no worker: it starts in the triggerer and is ended there."""
