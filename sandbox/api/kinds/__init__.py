"""The kinds that are served and what is special about each built-in one: types, defaults, validation."""
