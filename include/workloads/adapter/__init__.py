"""The adapter workload: a LoRA adapter as an OCI image in KAITO's layout, pushed after tuning, pulled for serving.

Everything is referred to by digest, everything pulled is verified, and no registry password is ever shown.
"""
