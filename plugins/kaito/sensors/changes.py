"""The reconciler's wait as a task: it starts in the triggerer, holds no worker, and ends with what needs a look."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowSkipException
from airflow.triggers.base import StartTriggerArgs

from kaito.controller.dispatch import Dispatch
from kaito.settings import connection_id
from kaito.triggers.changes import WorkspaceChangesTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

#: The trigger ends by itself at the resync; the framework's limit is for one that hangs.
BACKSTOP = timedelta(minutes=5)


class WorkspaceChangesSensor(BaseSensorOperator):
    """Waits until some Workspace needs a look.

    :param resync: look at everything that often.
    :param kubernetes_conn_id: Airflow connection to the cluster; default: setting ``[kaito] kubernetes_conn_id``.
    :returns: a ``kaito.controller.dispatch.Dispatch``.
    """

    start_from_trigger = True

    def __init__(
        self,
        *,
        resync: timedelta = timedelta(minutes=5),
        kubernetes_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.resync = resync
        self.kubernetes_conn_id = kubernetes_conn_id or connection_id()
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"{WorkspaceChangesTrigger.__module__}.{WorkspaceChangesTrigger.__qualname__}",
            trigger_kwargs=self._arguments(),
            next_method="execute_complete",
            timeout=resync + BACKSTOP,
        )

    def _arguments(self) -> dict[str, Any]:
        return {
            "kubernetes_conn_id": self.kubernetes_conn_id,
            "resync_seconds": self.resync.total_seconds(),
        }

    def execute(self, context: Context) -> None:
        self.defer(
            trigger=WorkspaceChangesTrigger(**self._arguments()),
            method_name="execute_complete",
            timeout=self.resync + BACKSTOP,
        )

    def execute_complete(self, context: Context, event: object = None) -> Any:
        """Only reached where triggers run inline (``dag.test()``): there the event comes back here."""
        dispatch = Dispatch.from_xcom(getattr(event, "xcoms", None) or event)
        if dispatch is None:
            raise AirflowSkipException("Nothing needs a look, or another Airflow deployment looks.")
        return dispatch.to_xcom()
