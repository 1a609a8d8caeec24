"""The provider's own way to try a request to the Kubernetes API again, with the types that it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import (
    TRANSIENT_CONNECTION_ERRORS,
    generic_api_retry,
)

Call = TypeVar("Call", bound=Callable[..., Any])

#: What a connection that breaks raises, in either client.
CONNECTION_ERRORS: tuple[type[BaseException], ...] = TRANSIENT_CONNECTION_ERRORS
#: The same for asyncio, where a time that runs out is an error of its own; and for a body that is read later.
ASYNC_CONNECTION_ERRORS: tuple[type[BaseException], ...] = (TimeoutError, *CONNECTION_ERRORS)
STREAM_ERRORS: tuple[type[BaseException], ...] = (OSError, *ASYNC_CONNECTION_ERRORS)


def retried(call: Call) -> Call:
    """Try ``call``, a function or a coroutine function, again on throttling, server errors and broken connections."""
    return cast(Call, generic_api_retry(call))
