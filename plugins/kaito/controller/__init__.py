"""The reconcile loop: list, watch, decide (`include.reconcile`), act, and write what is true."""
