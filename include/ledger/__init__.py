"""What GPU machines cost: who they worked for, for how long, at what price, and how much of it was of use.

The records live in `status.cost` of each Workspace and in the events of the Airflow asset `kaito_ledger`; both are the
same records, so a machine that is told twice is counted once. `python -m include.cli cost` reports them. It must never
ask a cloud for its bill: every figure follows from objects of the cluster and from list prices.

* A machine costs from the moment its cloud had it (its provider tells when: once it was
  launched, or once its pool was asked for) until it is gone. A machine of a pool that never joins costs as well.
* It works while a tuning pod runs on it or a serving pod on it is ready. The rest (boot, drivers, waiting, release) is
  wasted.
* Work of a tuning is of use when its run published the adapter, and wasted when the run ended without. An attempt that
  died is part of the work when the run succeeds, since the next one went on from its checkpoint.
"""
