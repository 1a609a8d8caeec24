"""The forms of an answer other than the object itself: tables with their columns, metadata only."""
