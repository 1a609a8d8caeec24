"""Measures a candidate adapter against the base model and the adapter that is served now, on the machine that tuned it.

It needs the engine that will serve, and no network (a judge aside). It must never load an adapter or a row that was not
checked, nor show a difference without its noise.
"""
