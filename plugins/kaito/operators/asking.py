"""One question to a service that is ready, to its base model and each adapter: what `kaito_ask` is for.

Who may start it may also ask from a Workspace's page (kaito.ui.access): Airflow's rights tell DAGs apart, whatever the
auth manager. Nothing of the Workspace is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import pooling
from include.contracts.redaction import redact
from include.views.state import served_since
from include.workspace.api.dialect import as_written
from include.workspace.validation import identity
from include.workspace.validation.faults import WorkspaceInvalid
from kaito.hooks.api import WORKSPACE, ClusterError
from kaito.params import ask_params
from kaito.run_conf import conf_faults, identity_faults, refuse
from kaito.settings import policy, ui_ask
from kaito.tasks import served_adapters
from kaito.tasks.base import WorkspaceTask
from kaito.tasks.golden_questions import ANSWER_SECONDS, SERVICE_PORT, key_header

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Tokens of an answer, and names of models that are asked.
ANSWER_TOKENS = 200
MOST_MODELS = 4


class AskServiceOperator(WorkspaceTask, BaseOperator):
    """Asks every model of a Workspace's service, one after the other.

    :param workspace: name of the Workspace. (templated)
    :param namespace: its namespace. (templated)
    :param question: the prompt. (templated)
    :returns: the answers by the models' names.
    """

    template_fields = ("workspace", "namespace", "question")

    def __init__(self, *, workspace: str, namespace: str, question: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workspace = workspace
        self.namespace = namespace
        self.question = question

    def execute(self, context: Context) -> dict[str, str]:
        if not ui_ask():
            raise AirflowFailException("This installation lets nobody ask services ([kaito] ui_ask).")
        conf = context["dag_run"].conf or {}
        refuse([*conf_faults(conf, ask_params()), *(identity_faults(context["params"]) or self._faults())])
        headers = self._ready()
        self.log.info("Q: %s", self.question)
        answers: dict[str, str] = {}
        for model in self._models(headers):
            answers[model] = self._answer(model, headers)
            self.log.info("A of %s: %s", model, answers[model])
        return answers

    def _faults(self) -> list[str]:
        """Nothing is read under what cannot be a name, or where the installation lets nobody work."""
        allowed = policy().allowed_namespaces
        found = [
            *identity.name_faults(self.workspace),
            *identity.namespace_faults(self.namespace, allowed),
        ]
        empty = [] if self.question.strip() else ["question: is empty; write what the service is asked"]
        return [*map(str, found), *empty]

    def _ready(self) -> dict[str, str]:
        """Return the header with the service's key, {} where it has none, once it is known to be ready."""
        live = self.cluster.find(WORKSPACE, self.workspace, self.namespace)
        which = f"Workspace {self.namespace}/{self.workspace}"
        if live is None:
            raise AirflowFailException(f"There is no {which}.")
        if served_since(live.get("status") or {}) is None:
            raise AirflowFailException(f"The service of {which} is not ready, so it cannot be asked.")
        try:
            return key_header(self.cluster, as_written(live))
        except WorkspaceInvalid as error:
            raise AirflowFailException(f"{which} has faults: {error}") from None

    def _models(self, headers: Mapping[str, str]) -> list[str]:
        told = self.cluster.get_from_service(
            self.workspace,
            self.namespace,
            served_adapters.MODELS,
            port=SERVICE_PORT,
            timeout=ANSWER_SECONDS,
            headers=headers,
        )
        names = served_adapters.models(told)
        if not names:
            raise AirflowException("The service names no model at /v1/models.")
        if task := pooling.first_task(told):
            raise AirflowFailException(f"It cannot be asked a question: {pooling.told(task, names[0])}")
        return names[:MOST_MODELS]

    def _answer(self, model: str, headers: Mapping[str, str]) -> str:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": self.question}],
            "max_tokens": ANSWER_TOKENS,
        }
        try:
            told = self.cluster.post_to_service(
                self.workspace,
                self.namespace,
                "v1/chat/completions",
                body,
                port=SERVICE_PORT,
                timeout=ANSWER_SECONDS,
                headers=headers,
            )
        except ClusterError as error:
            raise AirflowException(f"Model {model} does not answer: {error}") from None
        try:
            return redact(str(told["choices"][0]["message"]["content"]))
        except (KeyError, IndexError, TypeError):
            raise AirflowException(
                f"Model {model} answers, but not as the OpenAI API does: {redact(str(told))[:200]}"
            ) from None
