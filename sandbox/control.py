"""Talk to a running sandbox's API server with its own kubeconfig: faults, and a count of what runs."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

FAULTS = "/sandbox.local/faults"


class ControlProblem(RuntimeError):
    """The sandbox refused; the message is its answer."""


class Control:
    """A small client over urllib: the CLI must start fast and needs nothing else."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._server: str = cluster["server"]
        self._token: str = config["users"][0]["user"]["token"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._context = ssl.create_default_context(cadata=authority)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str | None) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        url = f"{self._server}{path}" + (f"?{urlencode(given)}" if given else "")
        request = urllib.request.Request(  # noqa: S310 - the scheme is https, from our own kubeconfig
            url,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        try:
            with direct.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            with suppress(ValueError):
                text = json.loads(text).get("message", text)
            raise ControlProblem(text) from None
        except OSError as error:
            raise ControlProblem(f"The sandbox does not answer on {self._server}: {error}") from error
