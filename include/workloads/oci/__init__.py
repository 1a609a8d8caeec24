"""One client of OCI registries for adapters and models: what a pod, or the control plane, may ask one and how.

It knows registries, images and layers. What an image holds is for its users to say.
"""
