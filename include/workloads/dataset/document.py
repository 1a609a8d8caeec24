"""Prints `docs/datasets.md` from the table that the code uses: `python -m include.workloads.dataset.document`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping

from include.contracts.dataset_keys import keys_of
from include.contracts.dataset_urls import scheme_of
from include.workloads.dataset import layouts
from include.workloads.dataset.columnar import MAX_CHILD_BYTES
from include.workloads.dataset.content import SAMPLES, SCANNED_ROWS, TOKENISED_ROWS
from include.workloads.dataset.fetch import Limits
from include.workloads.dataset.hub_files import MAX_FILES
from include.workloads.dataset.job import MAX_EXPANSION, MAX_ROWS
from include.workloads.dataset.personal import KINDS
from include.workloads.dataset.ranges import AT_ONCE, PART_BYTES
from include.workloads.dataset.text import MAX_ROW_CHARS
from include.workloads.tuning.rows import MAX_DROPPED_SHARE

_TOP = """# Datasets

<!-- Written by `python -m include.workloads.dataset.document > docs/datasets.md`; a test keeps the two equal. -->

The dataset step reads every file that a Workspace names, on a CPU machine, before any GPU is paid for. It never
guesses: **a row is used as its columns say, with all that changes what is learnt, or it is not used and the reason is
counted.** How many rows were used and why others were not stands in the condition `DatasetReady`, in its event and in
the log: `2 of 8 rows used: 6 x text is empty`. Columns without a meaning here, such as an id, are named there as not
read.

## Files

Parquet, Arrow (file and stream, Feather 2), CSV (`,` `;` tab or `|`) and JSON in UTF-8, each also packed as `.gz` or
`.zst`. JSON may be one object a line, objects laid out over several lines, one array, or one object that holds the
rows under {wrappers}. The content decides, not the name. What could run code when it is opened (pickles, archives) is
refused, and so is a link to a hub's page about a file (`/blob/`): give the link to the file (`/resolve/`).

## Where data comes from

A volume (`volumeSource`), an OCI image (`image`), or `urls`, of which each is one of these:

{sources}
The annotation `kaito.sh/dataset-secret` names the Secret, in the Workspace's namespace. All URLs are then of one host,
and https: what a host redirects to (a hub's storage) does not get the header, and an object store is never followed to
another place. Keys of S3 and Google and Azure's account key only sign requests and are not sent.

```
kubectl create secret generic my-data --from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=...
```

Without any key, the annotation `kaito.sh/dataset-identity` names a ServiceAccount that the cluster's administrator has
bound to an identity of its cloud: a role for service accounts or Pod Identity at Amazon, workload identity at Azure,
workload identity federation at Google. The dataset's pod alone runs as it, and only then may it reach its cloud's
metadata service. Which accounts may be named says the setting `[kaito] dataset_identities` (`kaito-dataset` by
default).

Every address is judged by the [same policy](security.md), whatever the scheme; a store inside the network needs
`allowed_networks`. Write `@COMMIT` to learn from the same files for good; a branch is looked up when the run starts,
and all its files are read at the commit that it had then. Files of more than {split} MiB come over {connections}
connections at once where their server takes ranges, and a download that broke off goes on where it ended.

A URL of a store or a hub that ends with a slash means all files below it whose names end as one of the formats above
does (also `.gz`, `.zst`); a `*` stands for any part of one name. They are read in the order of their names, as one
dataset: up to {files} files, and no more bytes than the limit below, which is judged before the first is fetched.
Hidden files (`.`), tools' own and empty ones are left out. A store's key must be allowed to list (`s3:ListBucket`,
`storage.objects.list`, a SAS with `l`). Plain `https` has no such list: name each file. A retraining that watches its
data sees a new, changed or vanished file in the list.

## Layouts

Names of columns and fields are compared without case. Columns in brackets may be left out.

"""

_MIDDLE = """
Where several layouts have their columns, the conversation wins over question and answer, and these over `text`. A
column of the weaker layout is then not read, except that `context`, `input`, `history` and `reasoning_content` must
stand in the conversation already. Two columns for one thing, such as `output` and `response`, must say the same.

A number where text is expected is taken as it is written; true and false are not. `system` (also {system}) is the first
message. An answer that looks like JSON stays the text that it is; only a column that holds messages, history or tools
may come as JSON text, because CSV has no other way.

## Messages

A message has a role (`role` or `from`) and its text (`content`, `value` or `text`, or a list of parts that are all
text).

"""

_FIELDS = """
Other fields of a message that are used:

| Field | What it does |
|---|---|
| `reasoning_content` | learnt as the assistant's thinking, where the model's chat template shows it |
| `tool_calls` | the assistant's calls, with arguments as an object or its JSON text |
| `tool_call_id`, `name` | given to the chat template |
| `weight` | 0: this answer is read and not learnt; 1: learnt |

"""

_UNUSABLE = """## What a row is refused for

A row that has one of these with a value is not used, because it would be learnt without it:

"""

_BOTTOM = """
A row whose `label`, `chosen` or `rejected` says something is preference data: see the table above.

## The model's chat template

The step renders every kind of conversation with the template of the model (or of `ModelConfig.chat_template`). A row
whose order of roles the template refuses, or of which it does not show a field, is not used, and the reason names the
roles or the field. Where weights come from a mirror that the CPU machine does not have, the training asks instead.

## Settings

In the training config (`tuning.config`):

| Key | Default | Meaning |
|---|---|---|
| `DatasetConfig.context_column`, `response_column` | | the columns that hold the question and the answer, where \
their names do not say it; `response_column` alone is plain text |
| `DatasetConfig.messages_column` | | the column that holds the chat messages, where its name does not say it |
| `DatasetConfig.preference_data` | `refuse` | `chosen`: of preference data the good answers are learnt, no others |
| `DatasetConfig.max_dropped_share` | {share} | a larger share of unusable rows stops the run before a GPU is \
asked for; so does a larger share of rows that lose their answer when they are cut to `max_length` |
| `DatasetConfig.max_cut_share` | any | a larger share of rows that are cut to `max_length` stops the run |
| `DatasetConfig.max_duplicate_share` | any | a larger share of rows that repeat an earlier one stops the run |

## The report

Beside the rows, on the work volume, lie `data/report.json` and `data/report.html`, a page that needs nothing else:
rows used and not used with the reasons, each file's layout, the tokens a row has and what is cut, rows that repeat,
held-out rows whose question is trained on as well, writing systems, languages, and the first {samples} rows as
the model reads them, with what the loss is on in colour. What may be [personal data or a secret](#personal-data) is
counted. What matters of it stands in the log and in `findings` of the step's result. [The Workspace's page](ui.md)
shows all of it while the training goes on and after it: the numbers of the step's result, and of the first rows some
hundred characters each, with what may be personal masked
in them (`[kaito] dataset_samples = false` keeps rows on the volume). The limits above are judged here, on a CPU, with
the report already written. Up to {scanned} rows are searched, and of {tokenised} the language is told (by py3langid,
where it is sure) and tokens are counted, evenly over the whole; the training judges every row of longer datasets.
Where weights come from a mirror that the CPU machine does not have, nothing is said of tokens.

### Personal data

The report counts the rows with each of these: a hint where to look, not a proof. Names and addresses of people are not
found.

{personal}
In 80 MB of packages' code and documentation no number but real ones was counted, bar two object identifiers that look
like addresses; of 60,000 made-up dates, prices, versions, ISBNs, hashes and random numbers, nine, all with the form and
the check digit of a card.

## The digest

`digest` names the normalised rows in their order: the same rows give the same digest from any file or format, however
many files they came in. After its form, `sha256+columns:`, it is the SHA-256 of a list with a line for each stream of
bytes (its name, a space, its SHA-256), sorted by name. `COLUMN.FIELD` (`messages.content`) has the bytes of all texts
one after the other; `COLUMN.cells` a number of 8 bytes for each value that is not null: in the highest byte the place
of its column times 32 plus that of its field, in the others the text's length in bytes or the value; `COLUMN.rows` how
many of these each row has. All numbers are little-endian. A row's own digest, by which the next version is
[compared](retraining.md), is the XXH3 (64 bits) of its part of the streams but `rows`, each with the one before as its
seed.

Earlier releases took the digests of rows in JSON (`sha256:`). The row digests that they left beside adapters are still
compared with, so that a retraining after an upgrade finds the same rows to be the same. Where those cannot be had,
since the adapter has none or they are gone from the registry, the two digests tell nothing: unless `minimumChange` asks
for more, the first retraining after the upgrade trains, if its server does not say that nothing has changed.

A finished dataset of the release before stays on its work volume as it is, byte by byte, and gets the digests of today:
a tuning that is tried again after an upgrade goes on from its last checkpoint, and nothing is fetched again.

## Limits

| What | Limit |
|---|---|
| all files together, as downloaded | {size} GiB (setting `dataset_max_bytes`) |
| text of all rows | {expansion} characters for each of these bytes |
| one row | {row} Mi characters |
| memory to decode a Parquet or Arrow file | {memory} GiB: row groups must fit |
| rows | {rows} |
| downloading | {minutes} minutes |
"""


def page() -> str:
    """The whole page."""
    return "".join(
        (
            _TOP.format(
                wrappers=_code(layouts.WRAPPERS),
                sources=_sources(),
                split=2 * PART_BYTES >> 20,
                connections=AT_ONCE,
                files=f"{MAX_FILES:,}",
            ),
            _layouts(),
            _MIDDLE.format(system=_code(layouts.SYSTEM[1:])),
            _roles(),
            _FIELDS,
            _UNUSABLE,
            _why("Column", layouts.UNUSABLE),
            "\nAnd in a message:\n\n",
            _why("Field", layouts.MESSAGE_UNUSABLE),
            _BOTTOM.format(
                share=MAX_DROPPED_SHARE,
                samples=SAMPLES,
                personal=_personal(),
                scanned=f"{SCANNED_ROWS:,}",
                tokenised=f"{TOKENISED_ROWS:,}",
                size=Limits.max_bytes >> 30,
                expansion=MAX_EXPANSION,
                row=MAX_ROW_CHARS >> 20,
                memory=MAX_CHILD_BYTES >> 30,
                rows=f"{MAX_ROWS:,}",
                minutes=round(Limits.max_seconds / 60),
            ),
        )
    )


#: A URL by way of example, and what it is.
_SOURCES = (
    ("https://HOST/PATH", "a file"),
    (
        "hf://datasets/ORG/NAME@REVISION/PATH",
        "a file of a hub's dataset at a commit, a branch or a tag (`main`)",
    ),
    ("hf://datasets/ORG/NAME@REVISION?split=train&subset=en", "a split, as the card or the files' names say"),
    ("s3://BUCKET/KEY?region=eu-west-1", "an object of S3, or of what speaks S3 at `endpoint=https://HOST`"),
    ("gs://BUCKET/KEY", "an object of Google Cloud Storage; the key is the JSON of a service account's"),
    ("abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH", "a blob of Azure Storage"),
    ("s3://BUCKET/FOLDER/", "all files below a folder; so of `gs://`, `abfs://` and `hf://` too"),
    ("s3://BUCKET/FOLDER/part-*.parquet", "files by a pattern; so of `gs://`, `abfs://` and `hf://` too"),
)


def _sources() -> str:
    lines = ["| URL | What it is | Keys of the Secret, where it is not public |", "|---|---|---|"]
    for url, what in _SOURCES:
        keys = keys_of(scheme_of(url))
        wanted = _code(keys.required) or " or ".join(f"`{key}`" for key in keys.one_of)
        more = f" ({_code(keys.optional)})" if keys.optional else ""
        lines.append(f"| `{url}` | {what} | {wanted}{more} |")
    return "\n".join(lines) + "\n"


#: By the report's name of a kind, where it is found.
_PERSONAL = {
    "email addresses": "they are written as such",
    "phone numbers": "[phonenumbers](https://pypi.org/project/phonenumbers/), Google's rules, takes them as valid: "
    'with a country\'s code, or as written in twelve countries; without their usual form, after a word such as "phone"',
    "payment card numbers": "an issuer has such numbers, and the check digit is right",
    "bank account numbers (IBAN)": "the IBAN is valid (this and the next by "
    "[python-stdnum](https://pypi.org/project/python-stdnum/))",
    "national identity numbers": "form and check digits are right: US, French, Spanish, Italian, Brazilian, Chinese, "
    "Korean, Mexican, Swiss, Belgian ones; after a word that names them, German, Dutch, British, Indian, Polish, "
    "Canadian, Swedish, Turkish ones too, of whose digits any tenth number would do",
    "IP addresses": "they are public ones of a single machine",
    "keys and tokens": "they begin as those of AWS, GitHub, Hugging Face and OpenAI do, or as a private key",
}


def _personal() -> str:
    lines = ["| What | Found where |", "|---|---|"]
    return "\n".join([*lines, *(f"| {kind} | {_PERSONAL[kind]} |" for kind in KINDS)]) + "\n"


def _layouts() -> str:
    lines = ["| Layout | Columns | What becomes of it | Seen in |", "|---|---|---|---|"]
    for layout in layouts.LAYOUTS:
        lines.append(f"| {layout.name} | {layout.columns} | {layout.becomes} | {layout.seen_in} |")
    lines += ["", "One row of each:", ""]
    for layout in layouts.LAYOUTS:
        example = json.dumps(layout.example, ensure_ascii=False)
        lines += [f"{layout.name}:", "", "```json", example, "```", ""]
    return "\n".join(lines[:-1]) + "\n"


def _roles() -> str:
    lines = ["| Role | Also called |", "|---|---|"]
    for role in layouts.ROLES:
        others = [other for other, known in layouts.ROLE_ALIASES.items() if known == role]
        lines.append(f"| `{role}` | {_code(others)} |")
    return "\n".join(lines) + "\n"


def _why(heading: str, table: Mapping[str, str]) -> str:
    reasons: dict[str, list[str]] = {}
    for name, why in table.items():
        reasons.setdefault(why, []).append(name)
    lines = [f"| {heading} | Instead |", "|---|---|"]
    lines += [f"| {_code(names)} | {why} |" for why, names in reasons.items()]
    neutral = [f"`{name}: {json.dumps(value)}`" for name, value in layouts.NEUTRAL.items() if name in table]
    return "\n".join(lines) + f"\n\nOf these {' and '.join(neutral)} says nothing and is allowed.\n"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(page())
