"""Who may ask a served model: which Secret holds the key of a Workspace's service.

On by default. Off in the v1alpha1 dialect, whose quick start asks without one, unless the service is public; and off
where the annotation kaito.sh/api-key says "none". Any other value names a Secret of the user's own. A pod template says
itself whom it lets in.
"""

from __future__ import annotations

from include.workspace.api import names
from include.workspace.api.dialect import V1ALPHA1
from include.workspace.api.models import Workspace

KEY = "API_KEY"  # of the Secret
#: Keys of the Secret that kaito.sh/tracking-secret names: what MLflow's and Weights & Biases' libraries read.
TRACKING_KEYS = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("MLFLOW_EXPERIMENT_NAME", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY"),
)
#: One of these it must have: without it nothing is tracked.
TRACKERS = ("MLFLOW_TRACKING_URI", "WANDB_API_KEY")
#: Keys of the Secret that kaito.sh/signing-secret names, as `cosign generate-key-pair k8s://NAMESPACE/NAME` makes it.
SIGNING_KEY, SIGNING_PASSWORD = "cosign.key", "cosign.password"
NONE = "none"


def is_public(ws: Workspace) -> bool:
    """Whether the service gets an address outside the cluster."""
    return ws.annotations.get(names.ENABLE_LOAD_BALANCER) == "True"  # KAITO's exact spelling


def api_key_secret(ws: Workspace) -> str | None:
    """Name of the Secret that holds the key, None where the service asks for none."""
    if ws.inference is not None and ws.inference.template is not None:
        return None
    named = ws.annotations.get(names.API_KEY, "").strip()
    if named:
        return None if named == NONE else named
    if ws.dialect == V1ALPHA1 and not is_public(ws):
        return None
    return names.api_key_secret(ws.to_dict())


def is_ours(ws: Workspace) -> bool:
    """Whether the Secret is made here when it is absent."""
    return api_key_secret(ws) == names.api_key_secret(ws.to_dict())
