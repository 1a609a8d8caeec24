"""Notifiers for `[kaito] notifiers`: copy one into your own package, and change whom it tells."""
