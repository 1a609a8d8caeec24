"""The judgement: what is to become of each thing of ours, and why.

Deleted is only what is ours, is an orphan (its Workspace is gone, or no run needs it any more), is used by nobody, has
existed and been an orphan for the grace time, and carries no annotation that keeps it. The first of these that does not
hold is the reason to keep it. It must never read the clock.
"""

from __future__ import annotations

from datetime import datetime

from include.janitor.activity import RunActivity
from include.janitor.orphans import (
    Inventory,
    Key,
    Object,
    OrphanAction,
    Questions,
    Rules,
    Verdict,
)
from include.janitor.things import (
    CONFIG_MAP,
    POD,
    SERVICE,
    VOLUME_CLAIM,
    Item,
    items,
    maker,
    owner_uid,
    stranger,
)
from include.janitor.use import nodes_of, user
from include.reconcile.case import RUN_COMPONENTS, SERVING, deleting, ended, label
from include.workspace.api import names


def judge(inventory: Inventory, now: datetime, rules: Rules) -> list[Verdict]:
    """A verdict on each thing, in the order in which they may be deleted."""
    return _OrphanCollector(inventory, now, rules).verdicts


def find_orphans(inventory: Inventory, now: datetime, rules: Rules) -> list[Verdict]:
    """The verdicts on what nobody needs any more: to be deleted now (`DELETE`), or after the grace time (`WAIT`)."""
    return [verdict for verdict in judge(inventory, now, rules) if verdict.orphan]


def questions(inventory: Inventory, now: datetime, rules: Rules) -> Questions:
    """What must be known before the verdicts on this inventory are final. Ask again until nothing is left to ask.

    Nothing is asked about what is kept anyway.
    """
    collector = _OrphanCollector(inventory, now, rules)
    orphans = [item for item, verdict in collector.judged if verdict.orphan]
    mounted = (SERVICE, CONFIG_MAP, VOLUME_CLAIM)
    return Questions(
        runs=tuple(sorted(collector.activity.runs - set(inventory.runs))),
        dags=tuple(sorted(collector.activity.dags - set(inventory.busy))),
        nodes=tuple(sorted({node for item in orphans for node in nodes_of(item)})),
        namespaces=tuple(
            sorted({str(item.thing.namespace) for item in orphans if item.thing.kind in mounted})
        ),
    )


class _OrphanCollector:
    def __init__(self, inventory: Inventory, now: datetime, rules: Rules) -> None:
        self.inventory, self.now, self.rules = inventory, now, rules
        self.activity = RunActivity(inventory, now)
        self.workspaces: dict[Key, Object] = {
            (names.namespace(ws), str(ws["metadata"]["name"])): ws for ws in inventory.workspaces
        }
        #: uids of what goes in this sweep, and so uses nothing and makes nothing any more.
        self.going: set[str] = set()
        self.judged: list[tuple[Item, Verdict]] = []
        for item in items(inventory):
            verdict = self._verdict(item)
            if verdict.action == OrphanAction.DELETE and item.thing.uid:
                self.going.add(item.thing.uid)
            self.judged.append((item, verdict))

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for _, verdict in self.judged]

    def _verdict(self, item: Item) -> Verdict:
        kept = self._kept(item)
        if kept:
            return Verdict(item.thing, OrphanAction.KEEP, kept)
        orphan, reason = self._orphan(item)
        if orphan and (used := user(item, self.inventory, self.going)):
            orphan, reason = False, f"{reason}, but {used}"
        if not orphan:
            return Verdict(item.thing, OrphanAction.KEEP, reason)
        since = min(self.inventory.seen.get(item.thing.key, self.now), self.now)
        if young := self._young(item, since):
            return Verdict(item.thing, OrphanAction.WAIT, f"{reason}; {young}", since)
        return Verdict(item.thing, OrphanAction.DELETE, reason, since)

    def _kept(self, item: Item) -> str:
        """Why a thing is kept whatever became of its Workspace, "" when it is not."""
        if why := stranger(item):
            return why
        if item.keep:
            return f"it is kept on request ({names.KEEP})"
        if item.deleting:
            return f"it is going already: {item.deleting}"
        if (made_by := maker(item)) is not None:
            if made_by.uid in self.going:
                self.going.add(item.thing.uid)
            return f"it goes or stays with {made_by.kind} {made_by.name}"
        return ""

    def _orphan(self, item: Item) -> tuple[bool, str]:
        """Whether nobody needs a thing any more, with the reason for either."""
        namespace, name = item.thing.workspace
        live = self.workspaces.get(item.thing.workspace)
        if live is None:
            return True, f"Workspace {namespace}/{name} is gone"
        if active_reason := self.activity.active_reason(live):
            return False, active_reason
        uid, known = str(live["metadata"].get("uid") or ""), owner_uid(item)
        earlier = bool(known) and not uid.startswith(known)
        pool, serving = item.thing.pool is not None, item.purpose == SERVING
        run_pod = item.thing.kind == POD and item.component in RUN_COMPONENTS
        if not (earlier or pool or run_pod):
            return False, f"Workspace {namespace}/{name} exists and owns it"
        if pool and serving and self._service_stands(live):
            # Also machines of an earlier Workspace of the same name: a serving pool is used again.
            return False, "the service of its Workspace stands"
        if self._just_made(item):
            return False, "it is new"  # not worth a question yet
        if busy := self.activity.under_way(live):
            return False, busy
        if earlier:
            return True, f"it was made for an earlier Workspace {namespace}/{name} ({known})"
        if busy := self.activity.own_run(item, live):
            return False, busy
        return True, f"run {item.run_label} is over" + (" and there is no service" if serving else "")

    def _service_stands(self, live: Object) -> bool:
        """Whether a StatefulSet that wants pods, or serving pods that outlive theirs, may use serving machines."""
        key = (names.namespace(live), str(live["metadata"]["name"]))
        for found in self.inventory.stateful_sets:
            meta = found["metadata"]
            wanted = (found.get("spec") or {}).get("replicas")
            if (meta.get("namespace"), meta["name"]) == key and wanted != 0 and not deleting(found):
                return True
        return any(
            (pod["metadata"].get("namespace"), label(pod, names.WORKSPACE)) == key
            and label(pod, names.COMPONENT) == SERVING
            and not ended(pod)
            for pod in self.inventory.pods
        )

    def _just_made(self, item: Item) -> bool:
        return item.created is not None and self.now - item.created < self.rules.grace

    def _young(self, item: Item, since: datetime) -> str:
        """Why an orphan has to wait, "" when it has waited long enough."""
        grace = self.rules.grace
        born = item.created
        if born is not None and self._just_made(item):
            return (
                f"it is {_minutes(born, self.now)} old, and waits until it is {_whole(grace.total_seconds())}"
            )
        if self.now - since < grace:
            left = (grace - (self.now - since)).total_seconds()
            return f"an orphan for {_minutes(since, self.now)}, it goes in {_whole(left)} at the earliest"
        return ""


def _minutes(start: datetime, end: datetime) -> str:
    return _whole(max(0.0, (end - start).total_seconds()))


def _whole(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
