"""How long a pod of ours may take to end by itself, and what it does with that time.

A training ends after the piece of a step that it is in and writes a checkpoint of the last whole one; the pod's grace
period has to hold both, or the kubelet kills it in the middle and the work since the last checkpoint is lost.
"""

from __future__ import annotations

#: What the other processes of a training get when one of them has failed, in seconds.
TRAINING_STOP_SECONDS = 60.0
#: terminationGracePeriodSeconds of a tuning pod: a long piece of a step, the checkpoint, the waiting processes.
TUNING_GRACE_SECONDS = 90
#: What the transformers server takes at most to finish the answers that are under way, in seconds.
SERVING_DRAIN_SECONDS = 25
#: In a serving pod: it is there as soon as the pod is told to go. Its server still answers for a while, and closes each
#: connection after the answer, so that clients which keep theirs open come to another pod before it ends.
LEAVING_FILE = "/tmp/kaito-leaving"  # noqa: S108 - the pod's own emptyDir
