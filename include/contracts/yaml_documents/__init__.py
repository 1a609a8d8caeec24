"""YAML that nobody has vouched for, as Kubernetes reads it: values with their lines and columns, and back to text.

It knows nothing of Workspaces, and imports nothing of the project.
"""
