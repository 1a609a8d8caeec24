"""What may be logged to: a task's or a trigger's own logger, and Python's, which differ in type alone."""

from __future__ import annotations

from typing import Any, Protocol


class Logger(Protocol):
    """The calls that ``logging.Logger`` and Airflow's structured logger have alike."""

    def debug(self, event: object, /, *args: Any) -> Any:
        """Log what only somebody asks for who looks for a cause."""

    def info(self, event: object, /, *args: Any) -> Any:
        """Log what happens."""

    def warning(self, event: object, /, *args: Any) -> Any:
        """Log what somebody should look at."""

    def error(self, event: object, /, *args: Any) -> Any:
        """Log what went wrong."""

    def exception(self, event: object, /, *args: Any) -> Any:
        """Log what went wrong, with the traceback of the exception that is being handled."""
