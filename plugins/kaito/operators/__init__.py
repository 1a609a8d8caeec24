"""The steps of a run. An operator carries values in and out; decisions are made in ``include``."""
