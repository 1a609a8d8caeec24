"""What an installation decides about the objects that are made, apart from any Workspace."""

from __future__ import annotations

from dataclasses import dataclass

from include.catalog import Catalog
from include.planning.runtimes import RUNTIMES

#: A dataset or an adapter that takes longer than this hangs on a server that does not answer.
STEP_TIMEOUT_MINUTES = 360


@dataclass(frozen=True, slots=True)
class ManifestSettings:
    """An installation's choices. Quantities are Kubernetes quantities as text, the work volume is in GiB.

    `weights_mirror` is a folder of every GPU node with one folder of weights a preset: it is mounted instead of
    downloading. It needs hostPath volumes, so the namespace may only enforce the Baseline profile minus hostPath, not
    Restricted. `allowed_networks` are CIDRs inside the network that datasets and registries may be in;
    `insecure_registries` (host:port) have no TLS, and may be anywhere.
    `bind_pod_ip` makes servers listen on the pod's address only, which a sandbox with one network for all pods needs;
    `kubectl port-forward` to a real kubelet needs it off.
    `gpu_image` is the image that has vLLM, `tools_image` that of steps without a GPU ("": `workload_image`, which has
    all but vLLM), `serving_runtimes` are the runtimes that the images have, preferred first.
    `endpoint_delay_seconds` is how long a server that is told to end still takes requests: endpoints go that late.
    `region` is the cloud's, where the zones of machines are told by it; whoever asks for machines looks it up.
    `volume_zones` are the zones, by their whole names, that a volume of the run is in: whoever asks for machines looks
    them up too.
    `memory_limit` bounds a container without GPUs; one with GPUs has room for its weights twice and 32 GiB, and 8 more
    for each further GPU, unless `gpu_pod_memory_limit` says otherwise. `tmp_size_limit` bounds a pod's /tmp;
    `step_timeout_minutes` the time of the steps that wait for others' servers, dataset and adapter.
    `dataset_samples` lets the first rows of a dataset go to whoever may see a run's XComs, masked and cut.
    `adapter_public_keys` are public keys in PEM: an adapter is served when one of them has signed it ("": any is).
    `own_pool_only` keeps pods on the nodes made for their Workspace; off where nodes are BYO (bring your own).
    """

    workload_image: str
    storage_class: str | None = None
    weights_mirror: str | None = None
    allowed_networks: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    node_class: str = "default"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    work_volume_gib: int = 50
    own_pool_only: bool = True
    bind_pod_ip: bool = False
    cpu_requests: bool = True  # whether pods ask for CPU and memory at all
    cpu_request: str = "250m"
    memory_request: str = "512Mi"
    gpu_pod_cpu_request: str = "500m"
    gpu_pod_memory_request: str = "1Gi"
    memory_limit: str = "4Gi"
    gpu_pod_memory_limit: str | None = None
    tmp_size_limit: str = "20Gi"
    step_timeout_minutes: int = STEP_TIMEOUT_MINUTES
    pod_egress: str = "public"  # or "open": see include.manifests.egress
    dataset_max_bytes: int | None = None
    dataset_samples: bool = True
    adapter_public_keys: str = ""
    gpu_image: str = ""
    tools_image: str = ""
    serving_runtimes: tuple[str, ...] = RUNTIMES
    endpoint_delay_seconds: int = 5
    region: str = ""
    volume_zones: tuple[str, ...] = ()

    @classmethod
    def defaults(cls, catalog: Catalog) -> ManifestSettings:
        """The settings of an installation that decides nothing."""
        return cls(
            workload_image=catalog.image("workloads"),
            gpu_image=catalog.image("gpu"),
            tools_image=catalog.image("tools"),
        )
