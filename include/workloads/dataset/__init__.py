"""The dataset workload: fetch what a Workspace names, check it, and leave one normalised Parquet file.

It runs before any GPU exists, so everything that can be wrong with the data is found here. It never trusts what
it downloads: addresses, sizes and contents are checked, and nothing that could carry code is opened.
"""
