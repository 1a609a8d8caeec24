"""What the demo and the tests know of the cluster that they run on, whoever started it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

#: How Airflow reads its section [kaito] from the environment.
PRODUCT = "AIRFLOW__KAITO__"


@dataclass(frozen=True)
class TargetCluster(ABC):
    """A cluster and a registry, with the folder for everything that belongs to the pass."""

    state_dir: Path
    kubeconfig: Path
    registry: str
    registry_user: str
    registry_password: str
    namespace: str

    @property
    def account_kubeconfig(self) -> Path:
        """A kubeconfig with a token, for what is asked without kubectl."""
        return self.kubeconfig

    @abstractmethod
    def airflow_settings(self, weights: Path) -> dict[str, str]:
        """Return the environment that Airflow needs for this cluster and no other.

        :param weights: folder of this machine with one folder of weights a preset.
        """
