"""What the control plane and the pods must read alike, each rule in one place.

Whatever a pod refuses costs money when it is first refused there, so both sides ask here. This package is copied into
the pod image: it may import the standard library, pydantic and PyYAML, for golden sets regex and jsonschema, and
nothing of this project.
"""
