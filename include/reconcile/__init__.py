"""What to do about a Workspace: a pure function of what it asks for and of what is there.

It exists so that every situation can be tested in milliseconds, thousands of them at random. It must never talk to a
cluster, to Airflow or to the clock: those who do hand it what they saw, and carry out what it decides.
"""
