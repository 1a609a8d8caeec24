"""What a setting or a file names as `package.module:name`: a function of somebody's own that makes what is wanted."""

from __future__ import annotations

from typing import TypeVar

from airflow.sdk.module_loading import import_string

T = TypeVar("T")


def make(name: str, kind: type[T], said: str) -> T:
    """Return what the function of this name makes.

    :param kind: what it has to make.
    :param said: how the sentence about a fault begins: where the name stands, and the name.
    :raises ValueError: there is no such function, it raises, or it makes something else.
    """
    try:
        found = import_string(name.replace(":", "."))()
    except Exception as error:  # whatever somebody else's code raises is told as the DAG's import error
        raise ValueError(f"{said} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{said} must make an airflow.sdk.{kind.__name__}, and made {type(found).__name__}.")
    return found
