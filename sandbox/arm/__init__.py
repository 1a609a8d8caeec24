"""Azure Resource Manager as far as AKS agent pools need it, so that Azure's own SDK works against the sandbox.

Paths, statuses, headers and bodies follow the published REST contract of Microsoft.ContainerService 2026-08-01. It
must never answer what Azure would not: a client that works here has to work there.
"""
