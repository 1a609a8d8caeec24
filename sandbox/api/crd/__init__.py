"""CustomResourceDefinitions and the objects of their kinds: structural schemas, CEL rules."""
