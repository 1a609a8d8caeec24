"""Pool providers to copy; docs/extending.md walks through them."""
