"""The words of a Workspace's status: condition types, reasons, phases of a run, and what each phase writes.

Types and reasons are KAITO's, so that its users' tools keep working; what KAITO does not show has types of our own.
Data only: `conditions` writes a status by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from include.workspace.api.names import RERUN


class ConditionType(StrEnum):
    """KAITO's condition types; the last three are ours."""

    NODE_CLAIM_READY = "NodeClaimReady"
    NODES_READY = "NodesReady"
    RESOURCE_READY = "ResourceReady"
    INFERENCE_READY = "InferenceReady"
    JOB_STARTED = "JobStarted"
    WORKSPACE_SUCCEEDED = "WorkspaceSucceeded"
    WORKSPACE_READY = "WorkspaceReady"
    WORKSPACE_DELETING = "WorkspaceDeleting"
    BENCHMARK_COMPLETED = "BenchmarkCompleted"
    MODEL_MIRROR_READY = "ModelMirrorReady"
    DATASET_READY = "DatasetReady"
    ADAPTER_PUBLISHED = "AdapterPublished"
    RETRAIN_READY = "RetrainReady"


class Reason(StrEnum):
    """KAITO's reasons, spelled as KAITO spells them, then ours."""

    NODE_CLAIMS_READY = "NodeClaimsReady"
    NODE_CLAIM_NOT_READY = "NodeClaimNotReady"
    NODES_READY = "NodesReady"
    NODE_NOT_READY = "NodeNotReady"
    NODE_PLUGINS_NOT_READY = "NodePluginsNotReady"
    RESOURCE_SUCCESS = "workspaceResourceStatusSuccess"
    RESOURCE_NOT_READY = "workspaceResourceStatusNotReady"
    RESOURCE_FAILED = "workspaceResourceStatusFailed"
    INFERENCE_SUCCESS = "WorkspaceInferenceStatusSuccess"
    INFERENCE_PENDING = "WorkspaceInferenceStatusPending"
    INFERENCE_FAILED = "WorkspaceInferenceStatusFailed"
    IMAGE_PULL_ERROR = "ImagePullError"
    OOM_KILLED = "ContainerOOMKilled"
    CRASH_LOOP = "ContainerCrashLoopBackOff"
    START_ERROR = "ContainerStartError"
    DISK_PRESSURE = "NodeDiskPressure"
    MEMORY_PRESSURE = "NodeMemoryPressure"
    POD_EVICTED = "PodEvicted"
    UNSCHEDULABLE = "Unschedulable"
    JOB_STARTED = "WorkspaceTuningJobStatusStarted"
    JOB_PENDING = "WorkspaceTuningJobStatusPending"
    JOB_FAILED = "WorkspaceTuningJobStatusFailed"
    SUCCEEDED = "workspaceSucceeded"
    PENDING = "workspacePending"
    FAILED = "workspaceFailed"
    READY = "workspaceReady"
    DELETED = "workspaceDeleted"
    NODES_RELEASED = "NodesReleased"
    CAPACITY_UNAVAILABLE = "CapacityUnavailable"
    DATASET_CHECKED = "DatasetChecked"
    DATASET_PENDING = "DatasetPending"
    DATASET_FAILED = "DatasetFailed"
    ADAPTER_PUSHED = "AdapterPushed"
    ADAPTER_PENDING = "AdapterPending"
    ADAPTER_FAILED = "AdapterFailed"
    ADAPTER_KEPT = "AdapterKept"
    SCALED_TO_ZERO = "ScaledToZero"
    BUDGET_EXCEEDED = "BudgetExceeded"
    RETRAIN_SCHEDULED = "Scheduled"
    RETRAINING = "Retraining"
    DATASET_UNCHANGED = "DatasetUnchanged"
    AWAITING_APPROVAL = "AwaitingApproval"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    CANDIDATE_REFUSED = "CandidateRefused"
    ROLLED_BACK = "RolledBack"
    RETRAIN_FAILED = "RetrainFailed"
    RETRAIN_INVALID = "RetrainInvalid"


class Phase(StrEnum):
    """What a run has reached."""

    ACCEPTED = "Accepted"
    RESUMED = "Resumed"
    INVALID = "Invalid"
    DATASET_PENDING = "DatasetPending"
    DATASET_READY = "DatasetReady"
    DATASET_FAILED = "DatasetFailed"
    ADAPTER_KEPT = "AdapterKept"
    NODES_PENDING = "NodesPending"
    NODES_READY = "NodesReady"
    NODES_FAILED = "NodesFailed"
    CAPACITY_AWAITED = "CapacityAwaited"
    TUNING_PENDING = "TuningPending"
    TUNING = "Tuning"
    TUNING_FAILED = "TuningFailed"
    RELEASED = "Released"
    PUBLISHING = "Publishing"
    PUBLISHED = "Published"
    PUBLISH_FAILED = "PublishFailed"
    ROLLING_OUT = "RollingOut"
    INFERENCE_READY = "InferenceReady"
    INFERENCE_FAILED = "InferenceFailed"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    BUDGET_EXCEEDED = "BudgetExceeded"
    DELETING = "Deleting"


RUN_AGAIN = f"Next: mend the cause, then give the annotation {RERUN} a new value."
#: What helps after an end, for those who read the condition and nothing else.
NEXT: Mapping[Phase, str] = {
    Phase.INVALID: "Next: correct it and apply it again.",
    **dict.fromkeys(
        (
            Phase.DATASET_FAILED,
            Phase.NODES_FAILED,
            Phase.TUNING_FAILED,
            Phase.PUBLISH_FAILED,
            Phase.INFERENCE_FAILED,
            Phase.FAILED,
        ),
        RUN_AGAIN,
    ),
}
#: Phases after which no training of this run goes on: what `status.progress` said of it is history.
TRAINING_OVER = frozenset(
    {
        Phase.ACCEPTED,
        Phase.RESUMED,
        Phase.INVALID,
        Phase.ADAPTER_KEPT,
        Phase.TUNING_FAILED,
        Phase.RELEASED,
        Phase.PUBLISHING,
        Phase.PUBLISHED,
        Phase.PUBLISH_FAILED,
        Phase.SUCCEEDED,
        Phase.FAILED,
        Phase.BUDGET_EXCEEDED,
    }
)
#: Reasons of WorkspaceReady with which a generation has ended badly.
ENDED_BADLY = frozenset({Reason.FAILED, Reason.BUDGET_EXCEEDED})


T, R = ConditionType, Reason
FINISHED = ((T.WORKSPACE_SUCCEEDED, False, R.FAILED), (T.WORKSPACE_READY, False, R.FAILED))


@dataclass(frozen=True, slots=True)
class Step:
    """What one phase writes: (type, status, reason) in this order, and status.state ("" leaves it)."""

    writes: tuple[tuple[ConditionType, bool, Reason], ...]
    state: str = ""


STEPS: Mapping[Phase, Step] = {
    Phase.ACCEPTED: Step(
        (
            (T.NODE_CLAIM_READY, False, R.NODE_CLAIM_NOT_READY),
            (T.NODES_READY, False, R.NODE_NOT_READY),
            (T.RESOURCE_READY, False, R.RESOURCE_NOT_READY),
            (T.DATASET_READY, False, R.DATASET_PENDING),
            (T.JOB_STARTED, False, R.JOB_PENDING),
            (T.ADAPTER_PUBLISHED, False, R.ADAPTER_PENDING),
            (T.INFERENCE_READY, False, R.INFERENCE_PENDING),
            (T.WORKSPACE_SUCCEEDED, False, R.PENDING),
            (T.WORKSPACE_READY, False, R.PENDING),
        ),
        "Pending",
    ),
    # Steps of a run that had ended are done again: what it has reached stays, and what it has not is open again.
    Phase.RESUMED: Step(
        ((T.WORKSPACE_SUCCEEDED, False, R.PENDING), (T.WORKSPACE_READY, False, R.PENDING)), "Pending"
    ),
    Phase.INVALID: Step(((T.RESOURCE_READY, False, R.RESOURCE_FAILED), *FINISHED), "Failed"),
    Phase.DATASET_PENDING: Step(((T.DATASET_READY, False, R.DATASET_PENDING),)),
    Phase.DATASET_READY: Step(((T.DATASET_READY, True, R.DATASET_CHECKED),)),
    Phase.DATASET_FAILED: Step(((T.DATASET_READY, False, R.DATASET_FAILED), *FINISHED), "Failed"),
    # An earlier run has made the adapter that is wanted: no data, machine or training is needed, only the push.
    Phase.ADAPTER_KEPT: Step(
        tuple(
            (kind, False, R.ADAPTER_KEPT)
            for kind in (
                T.NODE_CLAIM_READY,
                T.NODES_READY,
                T.RESOURCE_READY,
                T.DATASET_READY,
                T.JOB_STARTED,
            )
        ),
    ),
    Phase.NODES_PENDING: Step(
        (
            (T.NODE_CLAIM_READY, False, R.NODE_CLAIM_NOT_READY),
            (T.NODES_READY, False, R.NODE_NOT_READY),
            (T.RESOURCE_READY, False, R.RESOURCE_NOT_READY),
        )
    ),
    Phase.NODES_READY: Step(
        (
            (T.NODE_CLAIM_READY, True, R.NODE_CLAIMS_READY),
            (T.NODES_READY, True, R.NODES_READY),
            (T.RESOURCE_READY, True, R.RESOURCE_SUCCESS),
        )
    ),
    Phase.NODES_FAILED: Step(
        (
            (T.NODE_CLAIM_READY, False, R.NODE_CLAIM_NOT_READY),
            (T.NODES_READY, False, R.NODE_NOT_READY),
            (T.RESOURCE_READY, False, R.RESOURCE_FAILED),
            *FINISHED,
        ),
        "Failed",
    ),
    Phase.CAPACITY_AWAITED: Step(
        (
            (T.RESOURCE_READY, False, R.CAPACITY_UNAVAILABLE),
            (T.WORKSPACE_SUCCEEDED, False, R.PENDING),
            (T.WORKSPACE_READY, False, R.PENDING),
        ),
        "Pending",
    ),
    Phase.TUNING_PENDING: Step(((T.JOB_STARTED, False, R.JOB_PENDING),), "Running"),
    Phase.TUNING: Step(((T.JOB_STARTED, True, R.JOB_STARTED),), "Running"),
    Phase.TUNING_FAILED: Step(((T.JOB_STARTED, False, R.JOB_FAILED), *FINISHED), "Failed"),
    Phase.RELEASED: Step(
        (
            (T.NODE_CLAIM_READY, False, R.NODES_RELEASED),
            (T.NODES_READY, False, R.NODES_RELEASED),
            (T.RESOURCE_READY, False, R.NODES_RELEASED),
        )
    ),
    Phase.PUBLISHING: Step(((T.ADAPTER_PUBLISHED, False, R.ADAPTER_PENDING),), "Running"),
    Phase.PUBLISHED: Step(((T.ADAPTER_PUBLISHED, True, R.ADAPTER_PUSHED),), "Running"),
    Phase.PUBLISH_FAILED: Step(((T.ADAPTER_PUBLISHED, False, R.ADAPTER_FAILED), *FINISHED), "Failed"),
    Phase.ROLLING_OUT: Step(((T.INFERENCE_READY, False, R.INFERENCE_PENDING),), "Running"),
    Phase.INFERENCE_READY: Step(((T.INFERENCE_READY, True, R.INFERENCE_SUCCESS),), "Running"),
    Phase.INFERENCE_FAILED: Step(((T.INFERENCE_READY, False, R.INFERENCE_FAILED), *FINISHED), "Failed"),
    Phase.SUCCEEDED: Step(
        ((T.WORKSPACE_SUCCEEDED, True, R.SUCCEEDED), (T.WORKSPACE_READY, True, R.READY)), "Succeeded"
    ),
    Phase.FAILED: Step(FINISHED, "Failed"),
    Phase.BUDGET_EXCEEDED: Step(
        (
            (T.WORKSPACE_SUCCEEDED, False, R.BUDGET_EXCEEDED),
            (T.WORKSPACE_READY, False, R.BUDGET_EXCEEDED),
        ),
        "Failed",
    ),
    Phase.DELETING: Step(((T.WORKSPACE_DELETING, True, R.DELETED),)),
}

# Conditions that only make sense for a tuning, or only when something is served.
MACHINES = (T.NODE_CLAIM_READY, T.NODES_READY, T.RESOURCE_READY)
TUNING_ONLY = (T.DATASET_READY, T.JOB_STARTED, T.ADAPTER_PUBLISHED)
INFERENCE_STATES = {"Succeeded": "Ready", "Running": "Pending", "Failed": "NotReady"}
