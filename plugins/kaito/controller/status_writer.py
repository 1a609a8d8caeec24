"""How the reconciler writes a Workspace's status: by apply where the installed definition allows it.

The reconciler looks at the definition; the tasks of a run, which are processes of their own, look at the Workspace
(`was_applied`): what was applied before can be applied again. Refused when anybody wrote since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kaito.controller.read_cache import ReadingOnce
from kaito.hooks.api import CRD, WORKSPACE, ClusterError
from kaito.hooks.workspace_status import conditions_are_a_map, request, what_is_left

if TYPE_CHECKING:
    from kaito.hooks.kubernetes import AsyncKaitoClusterHook

Object = Mapping[str, Any]
DEFINITION = f"{WORKSPACE.plural}.{WORKSPACE.group}"


class StatusWriter:
    """Writes statuses with one hook; asks once what the installed definition of the kind can do."""

    def __init__(self, hook: AsyncKaitoClusterHook) -> None:
        self.hook = hook
        self._reads = ReadingOnce(hook)
        self._by_apply: bool | None = None

    async def write(self, live: Object, status: Object) -> dict[str, Any]:
        """Write the whole new ``status`` onto ``live``; returns the Workspace as it is then.

        :raises ClusterError: 409 when somebody wrote since ``live`` was read, 404 when it is gone.
        """
        if self._by_apply is None:
            self._by_apply = conditions_are_a_map(await self._definition())
        written: dict[str, Any] = await self.hook.send(request(live, status, by_apply=self._by_apply))
        if self._by_apply and (rest := what_is_left(written, status)):
            written = await self.hook.send(rest)
        return written

    async def _definition(self) -> Object | None:
        try:
            return await self._reads.find(CRD, DEFINITION)
        except ClusterError as error:
            if error.status != 403:
                raise
            return None
