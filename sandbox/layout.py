"""Where the sandbox keeps everything, and how long its simulated delays take.

Every path hangs below one state folder, so that `rm -r` of that folder forgets a sandbox. Nothing here touches the
disk.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The state folder's shape. `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, state_dir: str | Path) -> Layout:
        return cls(Path(state_dir).expanduser().resolve())

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def description(self) -> Path:
        """`sandbox.json`: addresses and process ids, for the CLI and for tests."""
        return self.root / "sandbox.json"

    @property
    def pid_file(self) -> Path:
        return self.root / "sandbox.pid"

    @property
    def process_log(self) -> Path:
        return self.root / "sandbox.log"

    @property
    def logs(self) -> Path:
        """Container logs: `<pod uid>/<container>/<restart count>.log`, CRI format."""
        return self.root / "logs"

    @property
    def pods(self) -> Path:
        return self.root / "pods"

    @property
    def volumes(self) -> Path:
        """One folder per PersistentVolume."""
        return self.root / "volumes"

    @property
    def images(self) -> Path:
        """What nodes have pulled for image volumes, one folder an image."""
        return self.root / "images"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def arm(self) -> Path:
        """Agent pools and their operations."""
        return self.root / "arm.json"

    @property
    def arm_token(self) -> Path:
        """The bearer token of the sandbox's Azure."""
        return self.root / "arm-token"

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    @property
    def registry_credentials(self) -> Path:
        return self.root / "registry.json"

    @property
    def certificates(self) -> Path:
        return self.root / "certificates"

    @property
    def memory_volumes(self) -> Path:
        """emptyDir volumes of medium Memory; outside the state folder because only /dev/shm is memory."""
        return Path("/dev/shm") / f"kaito-sandbox-{self.number:08x}"  # noqa: S108 - named after the state folder

    @property
    def number(self) -> int:
        """A number of this state folder's own, so that two sandboxes on one machine seldom share addresses."""
        return zlib.crc32(str(self.root).encode())


@dataclass(frozen=True)
class Timings:
    """All in seconds. Real clusters are slower; what matters is that the order of events is theirs."""

    boot: float = 1.0  # NodeClaim created -> machine is a Ready Node
    gpu: float = 0.3  # Node Ready -> its GPUs are allocatable (the device plugin's start)
    resync: float = 30.0
    heartbeat: float = 5.0
    node_monitor_grace: float = 15.0  # heartbeats missing for so long make a node Unknown
    lost_node_removal: float = 1.0  # Unknown -> the cloud removes the Node of a machine that is gone
    namespace_removal: float = (
        0.5  # namespace deleted -> it is gone, however empty; new content is refused meanwhile
    )
    restart_backoff: float = 10.0  # the kubelet's: 10 s doubling to 300 s
    restart_backoff_max: float = 300.0
    job_backoff: float = 10.0
    stop_grace: float = 2.0  # what `down` leaves a pod's processes
