"""Whoever is named in one setting is told of failures and of what is late, by real notifiers of Airflow's providers."""

from __future__ import annotations

import importlib
import socketserver
import threading
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.api_fastapi.core_api.datamodels.dag_run import DAGRunResponse
from airflow.sdk import BaseNotifier
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.triggers.callback import CallbackTrigger
from airflow.utils.state import CallbackState
from kaito import alerts

NOTIFIERS, DEADLINE = "AIRFLOW__KAITO__NOTIFIERS", "AIRFLOW__KAITO__RETRAIN_DEADLINE_MINUTES"
MAIL = "examples.notifiers.by_mail:notifier"
RUN = SimpleNamespace(dag_id="kaito_retrain", run_id="manual__1")


class Told(BaseNotifier):
    """Somebody's own notifier."""

    template_fields = ("text",)
    heard: list[str] = []

    def __init__(self) -> None:
        super().__init__()
        self.text = "{{ dag_run.run_id }}: {{ reason }}"

    async def async_notify(self, context: Any) -> None:
        self.heard.append(self.text)


class Deaf(Told):
    async def async_notify(self, context: Any) -> None:
        raise OSError("nobody listens")


class Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as one mail needs."""

    mails: list[str] = []

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                self.wfile.write(b"354 go on\r\n")
                text = ""
                while (line := self.rfile.readline().decode()) != ".\r\n":
                    text += line
                self.mails.append(text)
            self.wfile.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 fine\r\n")


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    Mailbox.mails.clear()
    with socketserver.TCPServer(("127.0.0.1", 0), Mailbox) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        extra = "disable_tls=true&disable_ssl=true"
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", f"smtp://127.0.0.1:{port}?{extra}")
        yield Mailbox.mails
        server.shutdown()


def test_nobody_is_told_where_nobody_is_named() -> None:
    assert alerts.on_failure() == []
    assert alerts.deadline() is None


def test_a_failure_is_a_mail(mailbox: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOTIFIERS, MAIL)
    (callback,) = alerts.on_failure()
    callback({"dag_run": RUN, "reason": "task_failure"})
    mail = message_from_string(mailbox[0])
    assert (mail["Subject"], mail["To"]) == ("kaito_retrain: task_failure", "on-duty@example.com")
    (body,) = [part for part in mail.walk() if part.get_content_type() == "text/html"]
    assert b"manual__1" in body.get_payload(decode=True)


@pytest.mark.parametrize("provider", ["slack", "http"])
def test_the_other_examples_make_notifiers_of_their_providers(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(f"airflow.providers.{provider}")
    name = {"slack": "by_slack", "http": "by_webhook"}[provider]
    monkeypatch.setenv(NOTIFIERS, f"examples.notifiers.{name}:notifier")
    assert isinstance(alerts.notifiers()[0], BaseNotifier)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("examples.notifiers.by_pigeon:notifier", "by_pigeon"),
        ("examples.notifiers.by_mail:nobody", "nobody"),
        ("builtins:dict", "must make an airflow.sdk.BaseNotifier, and made dict"),
        (f"{__name__}:missing", "missing"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_the_setting(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NOTIFIERS, name)
    with pytest.raises(ValueError, match=r"\[kaito\] notifiers") as raised:
        alerts.on_failure()
    assert told in str(raised.value)


async def test_what_is_late_is_told_to_everybody_though_one_of_them_cannot_hear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NOTIFIERS, f"{__name__}:Deaf, {__name__}:Told")
    monkeypatch.setenv(DEADLINE, "90")
    alert = alerts.deadline()
    assert alert is not None
    assert alert.interval == timedelta(minutes=90)
    module, _, function = alerts.LATE.rpartition(".")
    Told.heard.clear()
    shown = {"dag_run_id": "manual__1", "dag_id": "kaito_retrain"}
    assert set(shown) <= set(DAGRunResponse.model_fields), "as Airflow's scheduler hands a run over"
    await getattr(importlib.import_module(module), function)(context={"dag_run": shown})
    assert Told.heard == ["manual__1: it has not ended in time"]


async def test_the_trigger_of_a_missed_deadline_calls_it_with_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NOTIFIERS, f"{__name__}:Told")
    monkeypatch.setenv(DEADLINE, "90")
    alert = alerts.deadline()
    assert alert is not None
    assert isinstance(alert.callback, AsyncCallback)
    Told.heard.clear()
    context = {"dag_run": {"dag_run_id": "manual__1", "dag_id": "kaito_retrain"}, "deadline": {"id": "1"}}
    trigger = CallbackTrigger(alert.callback.path, {"context": context})
    events = [event.payload async for event in trigger.run()]
    assert [one["state"] for one in events] == [CallbackState.RUNNING, CallbackState.SUCCESS], events
    assert Told.heard == ["manual__1: it has not ended in time"]


@pytest.mark.parametrize("text", ["soon", "-1", "1.5"])
def test_a_deadline_is_a_number_of_minutes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEADLINE, text)
    with pytest.raises(ValueError, match="retrain_deadline_minutes"):
        alerts.deadline()


def test_every_dag_that_does_work_for_people_tells_of_its_failure() -> None:
    folder = Path(__file__).parents[3] / "dags"
    for name in ("kaito_tune", "kaito_serve", "kaito_retrain"):
        assert "on_failure_callback=on_failure()" in (folder / f"{name}.py").read_text(), name
