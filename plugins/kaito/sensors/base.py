"""A sensor that starts in the triggerer, without a worker, and is ended there by its trigger.

Its arguments are rendered by the triggerer, where a run's params and id are known and XComs are not (an xcom_pull in
them would hang for ever), so names come from params only. ``dag.test()`` and mapped tasks ignore
``start_from_trigger`` and call ``execute``, which defers to the same trigger.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import StartTriggerArgs

from kaito.settings import connection_id
from kaito.triggers.base import WorkspaceTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

#: The trigger gives up by itself, with a reason; the framework's limit only backs it up.
BACKSTOP = timedelta(seconds=60)


class WorkspaceSensor(BaseSensorOperator):
    """Waits for something that belongs to a Workspace.

    :param workspace: name of the Workspace. (templated, from params only)
    :param namespace: its namespace. (templated, from params only)
    :param ready_within: fail after that long.
    :param poll_seconds: pause between two looks at the cluster.
    :param kubernetes_conn_id: Airflow connection to the cluster; default: setting ``[kaito] kubernetes_conn_id``.
    """

    template_fields = ("workspace", "namespace")
    start_from_trigger = True
    trigger_class: ClassVar[type[WorkspaceTrigger]]
    kubernetes_conn_id: str | None

    def __init__(
        self,
        *,
        workspace: str,
        namespace: str,
        ready_within: timedelta,
        poll_seconds: float = 0.5,
        kubernetes_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        # What makes a wait fail does not go away by waiting again; the machines have to be asked for anew.
        kwargs.setdefault("retries", 0)
        super().__init__(**kwargs)
        self.workspace = workspace
        self.namespace = namespace
        self.ready_within = ready_within
        self.poll_seconds = poll_seconds
        self.kubernetes_conn_id = kubernetes_conn_id or connection_id()
        trigger = self.trigger_class
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"{trigger.__module__}.{trigger.__qualname__}",
            trigger_kwargs=self.trigger_arguments(),
            next_method="execute_complete",
            timeout=ready_within + BACKSTOP,
        )

    def trigger_arguments(self) -> dict[str, Any]:
        """Return the trigger's constructor arguments; template fields keep their names."""
        return {
            "workspace": self.workspace,
            "namespace": self.namespace,
            "kubernetes_conn_id": self.kubernetes_conn_id,
            "timeout_seconds": self.ready_within.total_seconds(),
            "poll_seconds": self.poll_seconds,
        }

    def execute(self, context: Context) -> None:
        self.defer(
            trigger=self.trigger_class(**self.trigger_arguments()),
            method_name="execute_complete",
            timeout=self.ready_within + BACKSTOP,
        )

    def execute_complete(self, context: Context, event: object = None) -> None:
        """Only reached where triggers run inline (``dag.test()``): there the event comes back here."""
        if "success" not in str(event):
            raise AirflowFailException(f"{self.task_id} ended as {event}; its log says why.")
