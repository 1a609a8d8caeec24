"""The schema of a Workspace's status: KAITO's fields, and those that say what KAITO does not show.

`conditions` is a map by type, so that server-side apply lets each controller own its conditions and leaves the others'
alone; as the plain list of KAITO's own definition it would be one atom that the last writer owns whole. Unknown fields
are kept: a status that another controller or a newer release writes must survive our version of the definition. Both
API versions carry all fields, since a write through v1alpha1 would otherwise erase what v1beta1 shows
(kaito-api.md#versions).
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _integer(description: str) -> Schema:
    return {"type": "integer", "format": "int64", "description": description}


def _number(description: str) -> Schema:
    return {"type": "number", "description": description}


def _moment(description: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": description}


def _object(description: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "x-kubernetes-preserve-unknown-fields": True,
    }


CONDITION: Schema = {
    "type": "object",
    "required": ["lastTransitionTime", "message", "reason", "status", "type"],
    "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
        "message": {"type": "string", "maxLength": 32768},
    },
}


def _sums() -> dict[str, Schema]:
    return {
        "nodeSeconds": _integer("Seconds that machines were held, all of them together."),
        "usefulNodeSeconds": _integer(
            "Of these, seconds of tuning that came to something and of a ready service."
        ),
        "wastedNodeSeconds": _integer("The rest: boot, waiting, work of failed runs."),
        "usd": _number("US dollars for all of it."),
        "usefulUsd": _number("US dollars for the useful part."),
        "wastedUsd": _number("US dollars for the rest."),
        "unpriced": {
            "type": "boolean",
            "description": "Whether a machine without a known price is in it: then the dollars are too few.",
        },
    }


COST_RECORD: Schema = _object(
    "One machine while it was held by one run.",
    name=_text("The NodeClaim's or Node's name."),
    uid=_text("Its uid."),
    run=_text("The run that held it, as its label says."),
    purpose=_text("tuning or serving."),
    machine=_text("The machine type."),
    since=_moment("From when it costs."),
    until=_moment("When it was gone; absent while it is there."),
    usdPerHour=_number("The list price, absent when it is not known."),
    workedSeconds=_integer("Seconds that a tuning pod ran or a serving pod was ready on it."),
    countedUntil=_moment("The moment up to which work has been counted."),
    working={"type": "boolean", "description": "True while it works."},
    outcome=_text("success or failed, once the run of a tuning is over."),
)

KAITO: dict[str, Schema] = {
    "workerNodes": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Names of the Workspace's nodes, sorted.",
    },
    "conditions": {
        "type": "array",
        "items": CONDITION,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "description": "What is known about each part of the Workspace.",
    },
    "state": _text("Pending, Running, Succeeded, Failed, Ready or NotReady."),
    "targetNodeCount": {
        "type": "integer",
        "format": "int32",
        "description": "The number of nodes that the workload needs.",
    },
    "performance": _object(
        "Measured performance of the server.",
        metrics={
            "type": "object",
            "description": "Metrics by name, such as peakTokensPerMinute: description, value, unit and config.",
            "additionalProperties": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    ),
}

OURS: dict[str, Schema] = {
    "adapter": _object(
        "The pushed adapter image; not in KAITO's own definition.",
        image=_text("The reference that was pushed to, with its tag."),
        digest=_text("sha256 digest of the pushed manifest."),
        reference=_text("The image by digest: what the server pulls."),
        reproduce=_text("The record of the training by digest: model card, all that repeats it, metrics."),
        signature=_text("The signature of the image, by digest; where kaito.sh/signing-secret names a key."),
        learnt=_text("The digests of the rows that it has learnt from, by digest: eight bytes of each row."),
        dataset=_object(
            "What the Workspace's own tuning has learnt from.",
            digest=_text("sha256 of the rows."),
            rows=_integer("How many there were."),
        ),
    ),
    "adapters": {
        "type": "array",
        "description": "The adapters of a live service; not in KAITO's own definition.",
        "items": _object(
            "One adapter.",
            name=_text("As clients name it."),
            digest=_text("sha256 digest of the image that answers now; empty before the first."),
            state=_text("Serving, Loading or Failed: of the version that is wanted."),
            since=_moment("Since when that is so."),
            message=_text("Why the version that is wanted is not served."),
        ),
    },
    "model": _object(
        "Where the model's files come from; not in KAITO's own definition.",
        name=_text("The model as the Workspace names it."),
        id=_text("Its name on the hub."),
        revision=_text("The commit of its repository that all pods of this Workspace use."),
        asked=_text("The revision that the annotation kaito.sh/model-revision asked for."),
        image=_text("The container image with its files, by digest."),
        volume=_text("The PersistentVolumeClaim, and the folder in it, with its files."),
        generation=_integer("The generation for which that was decided."),
    ),
    "task": _text(
        "What a service does whose model writes no text: embed, classify or pooling; not in KAITO's own definition."
    ),
    "progress": _object(
        "What the running tuning, or the starting server, said last; not in KAITO's own definition.",
        stage=_text("What it is doing: loading, training, saving, downloading the weights and so on."),
        step=_integer("Optimizer steps done; MiB of a download; percent of what is loaded."),
        total=_integer("Optimizer steps, or MiB, in all."),
        percent=_integer("How much of that is done, in percent."),
        epoch=_number("Passes over the data done."),
        loss=_number("Training loss of the last logged step."),
        tokensPerSecond=_number("Tokens trained a second, all GPUs together."),
        etaSeconds=_number("Seconds left at this speed."),
    ),
    "run": _object(
        "The Airflow run that works for this generation; not in KAITO's own definition.",
        id=_text("Id of the DAG run."),
        dag=_text("Id of the DAG."),
        url=_text("The run's page in Airflow."),
        attempt=_integer("1 for the first run of this generation."),
        generation=_integer("The generation that it works for."),
        rerun=_text("The last value of the rerun request that was followed."),
        cause=_text(
            "Why it was started: spec, rerun, repair, inputs, wake, capacity, mended, deleted or found."
        ),
        state=_text("How far it is: waiting, started, success or failed."),
    ),
    "inputs": {
        "type": "object",
        "description": "ConfigMaps and Secrets that the last run used (digests, versions); not in KAITO's own.",
        "additionalProperties": {"type": "string"},
    },
    "cost": {
        **_object(
            "What the Workspace's machines have cost at list prices; not in KAITO's own definition.",
            **_sums(),
            budgetUsd=_number("US dollars that they may cost in all (annotation kaito.sh/budget-usd)."),
            at=_moment("The sums are as of this moment."),
            claims={
                "type": "array",
                "items": COST_RECORD,
                "description": "A record for each machine and the run that it worked for; old ones go into earlier.",
            },
            earlier=_object("The sums of machines that have no record any more.", **_sums()),
        ),
        # Whoever accounts writes all of it: a part that another writer left must not stay behind.
        "x-kubernetes-map-type": "atomic",
    },
    "machines": {
        "type": "array",
        "description": "What a run with alternatives has asked for, in this order; not in KAITO's own definition.",
        "items": _object(
            "Machines that the cloud was asked for.",
            offer=_text("TYPE, TYPE@ZONE, with /spot or /on-demand behind it."),
            purpose=_text("tuning or serving."),
            run=_text("The Airflow run that asked."),
            state=_text("Asked, Refused, or OverBudget."),
            message=_text("The cloud's own words, or the budget's."),
            at=_moment("When that was."),
        ),
    },
    "retry": _object(
        "A failure that is tried again; not in KAITO's own definition.",
        failures=_integer("Failures in a row."),
        after=_moment("The next attempt is not before this moment."),
        message=_text("Why the last attempt failed."),
        reason=_text("CapacityUnavailable while the cloud has no machines."),
    ),
    "retrain": {
        **_object(
            "Retraining beside the service; not in KAITO's own definition.",
            schedule=_text("The schedule by which `next` was planned."),
            timezone=_text("Its time zone."),
            next=_moment("When the next retraining, or the next look at the dataset, is due."),
            run=_object(
                "The Airflow run of the retraining that is under way, or was last.",
                id=_text("Id of the DAG run."),
                dag=_text("Id of the DAG."),
                state=_text("started, success or failed."),
                since=_moment("When it was started."),
                due=_moment("The time of the schedule that it is for."),
                version=_text("The version that it makes."),
                url=_text("The run's page in Airflow."),
            ),
            dataset=_object(
                "What was learnt from last, and what its server said of it.",
                digest=_text("sha256 of the rows."),
                rows=_integer("How many there were."),
                checked=_moment("When its server was asked last."),
                marks={
                    "type": "array",
                    "items": _object("ETag, Last-Modified, size, version, digest or commit of one source."),
                },
            ),
            promotion=_object(
                "A version on its way to be served.",
                version=_text("The version."),
                state=_text("wanted, canary, withdrawing, rolling or baking."),
                cause=_text("promote or rollback."),
                percent=_number("The share of the requests that it answers as a canary, in percent."),
                canarySeconds=_number("How long it answers them before all are its."),
                since=_moment("When its share of the requests was given or taken away."),
                bakeSeconds=_number("How long it is watched after it answers."),
                until=_moment("Until when it is watched."),
                generation=_integer("The generation of the Workspace for which it was made."),
                image=_text("Its image, with its tag."),
                digest=_text("Its digest."),
                reference=_text("The image by digest."),
                restarts=_integer("Restarts of the server when the bake time began."),
                limits=_object(
                    "What it may do worse within its bake time.",
                    errors=_number("The share of its answers that may fail."),
                    latency=_number("How many times as long its answers may take, 0 for any time."),
                ),
                breach=_text("Why it has to be taken back, as whoever asked it golden questions says."),
                before=_object("What the servers had counted when it was asked for, or served meanwhile."),
                begun=_object("What they had counted when its time began."),
                earlier=_object("The adapter that is served again if it fails."),
            ),
            approval=_object("The candidate that waits for a person.", digest=_text("Its digest.")),
            versions={
                "type": "array",
                "description": "Versions, oldest first: digest, dataset, state, reason.",
                "items": _object(
                    "A version of the adapter.",
                    version=_text("yyyymmdd.n"),
                    dataset=_object(
                        "What it learns from, against what was learnt from before it.",
                        digest=_text("sha256 of the rows."),
                        rows=_integer("How many there are."),
                        added=_integer("Rows that were not there before; absent where that is not known."),
                        removed=_integer("Rows that are no longer there."),
                        before=_object("Digest and number of the rows before."),
                    ),
                ),
            },
            trained=_moment("When the last training began."),
            usd=_number("US dollars that retraining has cost so far."),
            rollback=_text("The last value of the rollback request that was followed."),
        ),
        "x-kubernetes-map-type": "atomic",
    },
    "idle": _object(
        "How long a service has been idle that is to be scaled to zero; not in KAITO's own definition.",
        minutes=_text("The idle time that was asked for, as the annotation says it."),
        run=_text("Id of the run that brought this service."),
        since=_moment("The last request, or what is later: the service was made, or was looked at first."),
        answered=_number("What the servers had counted then."),
        after=_moment("It is looked at again at this moment."),
        scaledToZero=_moment("When it was scaled to zero; absent while it is up."),
        released=_moment("When its machines were gone."),
        message=_text("Why it is taken for in use although nobody may be asking."),
    ),
}


def status_schema() -> Schema:
    """The structural schema of `.status`."""
    return {
        "type": "object",
        "properties": KAITO | OURS,
        "x-kubernetes-preserve-unknown-fields": True,
    }
