"""A registry that answers as a test wants it."""

from tests.support.registry_server import registry

__all__ = ["registry"]
