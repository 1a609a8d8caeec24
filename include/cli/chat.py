"""`chat`: a conversation with a Workspace's service, or one question, through the cluster's API server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from include.cli.arguments import command
from include.cli.cluster import Cluster
from include.contracts import pooling
from include.ledger.sources import SourceError
from include.views.state import served_since

DESCRIPTION = """\
Asks a Workspace's service, through the API server's proxy: nothing has to be forwarded, and the service's API key is
read from its Secret. Without a question it is a conversation, which an empty line or Ctrl-D ends. It needs the rights
to create services/proxy and, where the service has a key, to get its Secret.
"""
EPILOG = """\
exit code: 0 it answered; 1 it is not ready, or has no such model; 2 the cluster or the service cannot be asked

examples:
  python -m include.cli chat workspace-tuning-phi-3 "What is a finalizer?"
  python -m include.cli chat workspace-tuning-phi-3 --model phi-3-mini-128k-instruct
"""
SECONDS = 120.0
TOKENS = 512


def parser() -> argparse.ArgumentParser:
    root = command("chat", DESCRIPTION, EPILOG)
    root.add_argument("name", help="the Workspace")
    root.add_argument("question", nargs="*", help="one question (default: a conversation)")
    root.add_argument("--namespace", "-n", default="default", help="of the Workspace (default: default)")
    root.add_argument(
        "--model", "-m", help="which of the service's models (default: its adapter, else its model)"
    )
    root.add_argument(
        "--max-tokens", type=int, default=TOKENS, metavar="N", help=f"of an answer (default: {TOKENS})"
    )
    root.add_argument("--system", metavar="TEXT", help="a system prompt")
    root.add_argument("--context", help="context of the kubeconfig (default: the current one)")
    return root


def main(
    argv: Sequence[str] | None = None,
    out: TextIO | None = None,
    connect: Callable[[str | None], Cluster] = Cluster,
    read: Callable[[str], str] = input,
) -> int:
    """The exit code. `connect` gives the cluster for a context, `read` the user's next line; tests give their own."""
    asked, out = parser().parse_args(argv), out or sys.stdout
    try:
        cluster = connect(asked.context)
        live = cluster.workspace(asked.namespace, asked.name)
        if served_since(live.get("status") or {}) is None:
            print(
                f"Workspace {asked.name} has no service that is ready: see `status {asked.name}`.",
                file=sys.stderr,
            )
            return 1
        key = cluster.service_key(live)
        listed = _listed("\n".join(cluster.ask_service(live, "v1/models", None, key, SECONDS)))
        models = [str(one["id"]) for one in listed]
        model = asked.model or _preferred(models, asked.name)
        if model not in models:
            print(
                f"The service has no model {model}; it has: {', '.join(models) or 'none'}.", file=sys.stderr
            )
            return 1
        if task := pooling.task_of(listed[0]):
            print(pooling.told(task, model), file=sys.stderr)
            return 1
        talk = Conversation(cluster, live, key, model, asked.max_tokens, asked.system)
        if asked.question:
            return _say(talk.ask(" ".join(asked.question)), out)
        print(f"{model} of Workspace {asked.name}. An empty line ends it.", file=sys.stderr)
        while question := _next(read):
            _say(talk.ask(question), out)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


class Conversation:
    """The messages so far, and the service that answers them.

    :param cluster: as `Cluster.ask_service` is.
    :param live: the Workspace.
    :param key: the service's API key.
    :param max_tokens: of one answer.
    :param system: a system prompt; None for the model's own.
    """

    def __init__(
        self,
        cluster: Cluster,
        live: Mapping[str, Any],
        key: str | None,
        model: str,
        max_tokens: int,
        system: str | None = None,
    ) -> None:
        self._cluster, self._live, self._key = cluster, live, key
        self._body = {"model": model, "max_tokens": max_tokens, "stream": True}
        self.messages = [{"role": "system", "content": system}] if system else []

    def ask(self, question: str) -> Iterator[str]:
        """The pieces of the answer as they come. A question that was not answered whole is not remembered."""
        messages = [*self.messages, {"role": "user", "content": question}]
        body = {**self._body, "messages": messages}
        answer = []
        for line in self._cluster.ask_service(self._live, "v1/chat/completions", body, self._key, SECONDS):
            piece = delta(line)
            if piece:
                answer.append(piece)
                yield piece
        self.messages = [*messages, {"role": "assistant", "content": "".join(answer)}]


def delta(line: str) -> str:
    """What a line of a streamed chat completion (server-sent events) adds to the answer.

    :raises SourceError: it says that the service failed.
    """
    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
    if not data or data == "[DONE]":
        return ""
    try:
        event = json.loads(data)
        if event.get("error"):
            raise SourceError(f"The service failed: {event['error'].get('message') or event['error']}")
        choices = event.get("choices") or [{}]
        return str((choices[0].get("delta") or {}).get("content") or "")
    except (ValueError, AttributeError, TypeError, IndexError):
        raise SourceError(f"The service answered, but not as the OpenAI API does: {data[:200]}") from None


def _listed(text: str) -> list[Mapping[str, Any]]:
    try:
        listed = list(json.loads(text)["data"])
        if all(one["id"] for one in listed):
            return listed
    except (ValueError, KeyError, TypeError):
        pass
    raise SourceError(f"The service named no models at /v1/models: {text[:200]}") from None


def _preferred(models: Sequence[str], workspace: str) -> str:
    """The adapter of a tuning has its Workspace's name; else the first, which is the base model."""
    return workspace if workspace in models else (models[0] if models else workspace)


def _next(read: Callable[[str], str]) -> str:
    try:
        return read("> ").strip()
    except EOFError:
        return ""


def _say(pieces: Iterator[str], out: TextIO) -> int:
    for piece in pieces:
        out.write(piece)
        out.flush()
    out.write("\n")
    return 0
