"""A cluster that the tests did not start: borrowed with a namespace of its own, and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.cluster import Kubectl
from demo.external import own_kubeconfig
from demo.preflight import Options, check_cluster, check_options
from demo.processes import PROJECT_ROOT

NAMESPACE = "kaito-test"


@contextmanager
def borrowed(folder: Path, kubeconfig: Path | None) -> Iterator[Path]:
    """Make a namespace; yields a kubeconfig whose default it is. At the end it goes, and the CRD with it.

    A cluster that has Workspaces already is refused: the tests would change and delete its CRD.
    """
    options = Options(kubeconfig=kubeconfig)
    faults = check_options(options, needs_workloads=False)
    path = folder / "kubeconfig"
    if not faults:
        own_kubeconfig(path, kubeconfig, NAMESPACE)
        faults = check_cluster(Kubectl(path), options, NAMESPACE, needs_machines=False)
    if faults:
        pytest.fail("the external cluster cannot be used:\n" + "\n".join(faults), pytrace=False)
    kubectl = Kubectl(path)
    kubectl("create", "namespace", NAMESPACE)
    try:
        yield path
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")
        kubectl("delete", "-f", str(PROJECT_ROOT / "presets" / "crds"), "--ignore-not-found", "--timeout=60s")
