"""Startup, readiness and liveness probes with the kubelet's timings and words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

Object = dict[str, Any]
ExecProbe = Callable[[list[str], float], Awaitable[tuple[int, str]]]


@dataclass(frozen=True)
class Verdict:
    """One probe's answer; `output` says why it failed."""

    ok: bool
    output: str = ""


@dataclass
class Counter:
    """Turns single answers into a state: so many successes or failures in a row."""

    success_threshold: int
    failure_threshold: int
    successes: int = 0
    failures: int = 0

    @classmethod
    def of(cls, probe: Object) -> Counter:
        return cls(int(probe.get("successThreshold") or 1), int(probe.get("failureThreshold") or 3))

    def count(self, ok: bool) -> bool | None:
        """True or False once a threshold is reached, else None."""
        self.successes, self.failures = (self.successes + 1, 0) if ok else (0, self.failures + 1)
        if self.successes >= self.success_threshold:
            return True
        return False if self.failures >= self.failure_threshold else None


def _port_number(port: int | str, container: Object) -> int:
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    named = (p["containerPort"] for p in container.get("ports") or [] if p.get("name") == port)
    return int(next(named))


def _why(error: OSError) -> str:
    """`connection refused` and the like: asyncio puts words of its own into strerror."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


async def _http(probe: Object, container: Object, address: str, timeout: float) -> Verdict:
    """Certificates are not checked, as the kubelet does not: a probe asks whether it answers, not who it is."""
    get = probe["httpGet"]
    scheme = (get.get("scheme") or "HTTP").lower()
    path = get.get("path") or "/"
    url = f"{scheme}://{get.get('host') or address}:{_port_number(get['port'], container)}/{path.lstrip('/')}"
    headers = {"User-Agent": "kube-probe/1.36", "Accept": "*/*"}
    headers |= {header["name"]: header["value"] for header in get.get("httpHeaders") or []}
    try:
        limits = aiohttp.ClientTimeout(total=timeout)
        async with (
            aiohttp.ClientSession(timeout=limits) as session,
            session.get(url, headers=headers, ssl=False, allow_redirects=False) as answer,
        ):
            if 200 <= answer.status < 400:
                return Verdict(True)
            return Verdict(False, f"HTTP probe failed with statuscode: {answer.status}")
    except TimeoutError:
        return Verdict(
            False, f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
        )
    except aiohttp.ClientConnectorError as error:
        return Verdict(
            False, f'Get "{url}": dial tcp {error.host}:{error.port}: connect: {_why(error.os_error)}'
        )
    except (aiohttp.ClientError, OSError) as error:
        return Verdict(False, f'Get "{url}": {error}')


async def _tcp(probe: Object, container: Object, address: str, timeout: float) -> Verdict:
    socket = probe["tcpSocket"]
    host, port = socket.get("host") or address, _port_number(socket["port"], container)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout)
    except TimeoutError:
        return Verdict(False, f"dial tcp {host}:{port}: i/o timeout")
    except OSError as error:
        return Verdict(False, f"dial tcp {host}:{port}: connect: {_why(error)}")
    writer.close()
    return Verdict(True)


async def check(probe: Object, container: Object, address: str, execute: ExecProbe) -> Verdict:
    """Ask once. `execute(command, timeout)` runs a command with the container's files."""
    timeout = float(probe.get("timeoutSeconds") or 1)
    if "httpGet" in probe:
        return await _http(probe, container, address, timeout)
    if "tcpSocket" in probe:
        return await _tcp(probe, container, address, timeout)
    if "exec" in probe:
        try:
            code, output = await execute(probe["exec"]["command"], timeout)
        except TimeoutError:
            return Verdict(
                False,
                f'command timed out: "{" ".join(probe["exec"]["command"])}" timed out after {timeout:g}s',
            )
        return Verdict(code == 0, output)
    return Verdict(False, "the sandbox knows httpGet, tcpSocket and exec probes only")


async def repeat(
    probe: Object,
    ask: Callable[[], Awaitable[Verdict]],
    decided: Callable[[bool], bool],
    failed: Callable[[str], Awaitable[None]],
) -> None:
    """Ask every period until `decided(state)` returns False; `failed(output)` hears of each single failure."""
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    counter, period = Counter.of(probe), float(probe.get("periodSeconds") or 10)
    while True:
        verdict = await ask()
        if not verdict.ok:
            await failed(verdict.output)
        state = counter.count(verdict.ok)
        if state is not None and not decided(state):
            return
        await asyncio.sleep(period)
