"""Whom Airflow is in the cluster: the service account of presets/rbac, never the administrator.

So all that is shown and tested here runs with the rights that a user is told to give, and no others.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from demo.cluster import Kubectl
from demo.stack import PROJECT_ROOT

RIGHTS = PROJECT_ROOT / "presets" / "rbac"
ACCOUNT, NAMESPACE = "kaito-airflow", "kaito-system"


def airflow_kubeconfig(admin: Path, path: Path) -> Path:
    """Give Airflow its account in the cluster and write a kubeconfig of it.

    :param admin: kubeconfig of somebody who may grant rights.
    :param path: where to write Airflow's own, readable by its owner only.
    :raises DemoError: kubectl failed.
    """
    kubectl = Kubectl(admin)
    kubectl("apply", "-f", str(RIGHTS))
    token = kubectl("create", "token", ACCOUNT, "--namespace", NAMESPACE, "--duration", "24h")
    config = yaml.safe_load(admin.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
