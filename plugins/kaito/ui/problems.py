"""Every way in which a page can fail, as a status and a sentence: never a stack trace, never an endless wait."""

from __future__ import annotations

from include.contracts.redaction import redact
from kaito.hooks.api import ClusterError


class Problem(Exception):
    """What a page or the API answers in place of what was asked for.

    :param status: the HTTP status.
    :param sentence: what is wrong, in words.
    :param remedy: what would help.
    """

    def __init__(self, status: int, sentence: str, remedy: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = redact(sentence)
        self.remedy = redact(remedy)


#: The whole of a status that the cluster may answer for a Workspace.
NO_RIGHTS = "The API server lets Airflow's account not do this: bind presets/rbac to this namespace (docs/install.md)."
NO_CRD = "Make Workspaces known to the cluster: kubectl apply -f presets/crds."


def of_cluster(error: ClusterError, *, listing: bool = False) -> Problem:
    """Return the problem that a refusal of the cluster is.

    :param listing: whether all Workspaces were asked for, so that 404 means that the cluster knows none of them.
    """
    if error.status in (401, 403):
        return Problem(502, f"The cluster refused: {error}", NO_RIGHTS)
    if error.status == 404 and listing:
        return Problem(502, "The cluster does not know Workspaces.", NO_CRD)
    if error.status == 404:
        return Problem(
            404, "There is no such Workspace: it was deleted, or never was.", "Go back to all Workspaces."
        )
    if error.status == 409:
        return Problem(409, f"Somebody else changed it meanwhile: {error}", "Load the page again and look.")
    if error.status in (400, 422):
        return Problem(422, f"The cluster refused: {error}")
    return unreachable(str(error))


def unreachable(told: str) -> Problem:
    """Return the problem of a cluster that does not answer."""
    remedy = (
        "Is the cluster up, and does the Airflow connection that [kaito] names reach it from the API server?"
    )
    return Problem(503, f"The cluster does not answer: {told}"[:600], remedy)
