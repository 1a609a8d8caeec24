"""How a Workspace is doing: conditions, what their changes are worth telling, and the memory kept in its status."""
