"""The whole dataset run, from the request to train.parquet and report.json."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from include.workloads.contract import Stopped, TryAgain, UserConfigError, UserDataError
from include.workloads.dataset import job, request
from include.workloads.dataset.columns import Preference
from include.workloads.dataset.job import run_job
from include.workloads.dataset.options import Options
from include.workloads.dataset.request import Request, from_environment
from tests.support.dataset_server import LOOPBACK, Web, send


def lines(*rows: dict) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


QA = lines({"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"})


def ask(output: Path, *urls: str, **more) -> Request:
    return Request(output=output, urls=urls, network=LOOPBACK, **more)


def report_of(output: Path) -> dict:
    return json.loads((output / "report.json").read_text())


def test_all_files_are_used_and_equal_names_do_not_collide(web: Web, tmp_path: Path):
    urls = [
        web.serve("/one/train.jsonl", QA),
        web.serve("/two/train.jsonl", lines({"prompt": "p", "completion": "c"})),
    ]
    result = run_job(ask(tmp_path, *urls))
    assert result["rows"] == 3
    assert [source["rows"] for source in result["sources"]] == [2, 1]
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["messages"][0]["content"] for row in rows] == ["q1", "q2", "p"]
    assert result["format"] == "messages"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "report.html",
        "report.json",
        "rows.xxh3",
        "samples.json",
        "train.parquet",
    ]


def test_the_report_says_everything_a_person_asks(web: Web, tmp_path: Path):
    body = (
        QA
        + b"\n"
        + lines({"question": "q1", "answer": "a1"}, {"question": "", "answer": "x"}, {"question": "no"})
    )
    run_job(ask(tmp_path, web.serve("/d.jsonl", body, ETag='"e"')))
    report = report_of(tmp_path)
    assert report["rows"] == 3
    assert report["dropped"] == {"question is empty": 1, "no usable columns": 1}
    assert report["dropped_rows"] == 2
    assert report["duplicate_rows"] == 1
    assert report["characters"] == {"total": 12, "p50": 4, "p95": 4, "max": 4}
    assert report["roles"] == {"assistant": 3, "user": 3}
    assert report["sources"][0]["etag"] == '"e"'
    assert report["sources"][0]["columns"] == ["question", "answer"]


def test_the_same_rows_give_the_same_digest_and_bytes_from_any_format(web: Web, tmp_path: Path):
    web.serve("/a.jsonl", QA)
    web.serve("/a.csv", b"question,answer\nq1,a1\nq2,a2\n")
    first = run_job(ask(tmp_path / "1", web.url("/a.jsonl")))
    second = run_job(ask(tmp_path / "2", web.url("/a.csv")))
    assert first["digest"] == second["digest"]
    assert (tmp_path / "1/train.parquet").read_bytes() == (tmp_path / "2/train.parquet").read_bytes()


def test_plain_text_stays_plain_text(web: Web, tmp_path: Path):
    assert run_job(ask(tmp_path, web.serve("/t", lines({"text": "x"}))))["format"] == "text"
    assert pq.read_table(tmp_path / "train.parquet").to_pylist() == [{"text": "x"}]


def test_chat_and_plain_text_do_not_mix(web: Web, tmp_path: Path):
    with pytest.raises(UserDataError, match=r"'text' while the rows before it are of the kind\s+'messages'"):
        run_job(ask(tmp_path, web.serve("/a", QA), web.serve("/b", lines({"text": "x"}))))


def test_no_usable_columns_names_what_was_found_and_what_is_accepted(web: Web, tmp_path: Path):
    with pytest.raises(UserDataError, match=r"found: 'foo', 'bar'.*Accepted: messages \| conv"):
        run_job(ask(tmp_path, web.serve("/a.csv", b"foo,bar\n1,2\n")))


def test_zero_usable_rows_say_why(web: Web, tmp_path: Path):
    with pytest.raises(
        UserDataError, match=r"no usable row \(all 1 rows were dropped: 1 x answer is empty\)"
    ):
        run_job(ask(tmp_path, web.serve("/a", lines({"question": "q", "answer": ""}))))
    with pytest.raises(UserDataError, match="there are no rows"):
        run_job(ask(tmp_path, web.serve("/b", b"[]")))


def test_one_file_without_usable_columns_is_not_passed_over(web: Web, tmp_path: Path):
    with pytest.raises(UserDataError, match=r"/b has no usable columns"):
        run_job(ask(tmp_path, web.serve("/a", QA), web.serve("/b", lines({"foo": 1}))))


def test_a_failed_run_leaves_nothing_of_an_older_one(web: Web, tmp_path: Path):
    run_job(ask(tmp_path, web.serve("/a", QA)))
    with pytest.raises(UserDataError):
        run_job(ask(tmp_path, web.serve("/b", b"<html>")))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def conditional(body: bytes, etag: str):
    def answer(handler) -> None:
        fresh = handler.headers.get("If-None-Match") != etag
        send(handler, body if fresh else b"", 200 if fresh else 304, ETag=etag)

    return answer


def test_a_second_run_over_unchanged_sources_downloads_nothing(web: Web, tmp_path: Path):
    web.routes["/a"] = conditional(QA, '"1"')
    first = run_job(ask(tmp_path, web.url("/a?sig=1")))
    stamp = (tmp_path / "train.parquet").stat().st_mtime_ns
    assert run_job(ask(tmp_path, web.url("/a?sig=1"))) == first
    assert (tmp_path / "train.parquet").stat().st_mtime_ns == stamp
    assert web.asked[-1][1]["If-None-Match"] == '"1"'


def test_a_changed_source_is_fetched_anew(web: Web, tmp_path: Path):
    web.routes["/a"] = conditional(QA, '"1"')
    first = run_job(ask(tmp_path, web.url("/a")))
    web.routes["/a"] = conditional(lines({"question": "new", "answer": "a"}), '"2"')
    assert run_job(ask(tmp_path, web.url("/a")))["digest"] != first["digest"]


def test_a_damaged_output_is_built_again(web: Web, tmp_path: Path):
    web.routes["/a"] = conditional(QA, '"1"')
    first = run_job(ask(tmp_path, web.url("/a")))
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    assert run_job(ask(tmp_path, web.url("/a"))) == first
    assert pq.read_table(tmp_path / "train.parquet").num_rows == 2


def test_a_killed_run_leaves_nothing_that_looks_finished_and_can_be_repeated(
    web: Web, tmp_path: Path, monkeypatch
):
    def kill(*args: object) -> None:
        raise Stopped("SIGTERM")

    web.serve("/a", QA)
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_report", kill)
        with pytest.raises(Stopped):
            run_job(ask(tmp_path, web.url("/a")))
    assert not (tmp_path / "report.json").exists()
    assert run_job(ask(tmp_path, web.url("/a")))["rows"] == 2


def test_two_writers_do_not_share_a_volume(tmp_path: Path):
    tmp_path.joinpath("x").mkdir()
    with job._lock(tmp_path), pytest.raises(TryAgain, match="Another dataset pod"):
        run_job(ask(tmp_path, "http://127.0.0.1:1/a"))


def test_an_expected_checksum_is_held(web: Web, tmp_path: Path):
    url = web.serve("/a", QA)
    with pytest.raises(UserDataError, match="not the expected 00000"):
        run_job(ask(tmp_path, url, expected_sha256=("0" * 64,)))
    digest = run_job(ask(tmp_path, url))["sources"][0]["sha256"]
    asked = len(web.asked)
    run_job(ask(tmp_path, url, expected_sha256=(digest,)))
    run_job(ask(tmp_path, url, expected_sha256=(digest,)))
    assert len(web.asked) == asked + 1, "a pinned file that is here needs no network"


def test_text_that_unpacks_without_end_is_stopped(web: Web, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(job, "MAX_EXPANSION", 0)
    with pytest.raises(UserDataError, match="unpacks to more"):
        run_job(ask(tmp_path, web.serve("/a", QA)))


def test_broken_unicode_is_a_dropped_row(web: Web, tmp_path: Path):
    result = run_job(ask(tmp_path, web.serve("/a", QA + b'\n{"question": "\\ud800", "answer": "x"}')))
    assert (result["rows"], result["dropped_rows"]) == (2, 1)


def test_queries_are_in_no_output(web: Web, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    result = run_job(ask(tmp_path, web.serve("/a", QA) + "?sig=CANARY"))
    assert "CANARY" not in json.dumps(result) + caplog.text + (tmp_path / "report.json").read_text()


def test_a_folder_is_read_whole_and_in_order(tmp_path: Path):
    data = tmp_path / "in"
    (data / "sub").mkdir(parents=True)
    (data / "b.jsonl").write_bytes(lines({"question": "2", "answer": "a"}))
    (data / "a.jsonl").write_bytes(lines({"question": "1", "answer": "a"}))
    (data / "sub/c.csv").write_bytes(b"question,answer\n3,a\n")
    (data / "dataset_info.json").write_text("{}")
    (data / ".hidden.json").write_text("{}")
    (data / "README-about-csv-export.md").write_text("no data")
    (data / "weights.tar.gz").write_text("no data")
    pq.write_table(pq.read_table(_parquet(tmp_path)), data / "sub/d")
    result = run_job(Request(output=tmp_path / "out", folder=data))
    rows = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    assert [row["messages"][0]["content"] for row in rows] == ["1", "2", "3", "4"]
    assert [Path(source["url"]).name for source in result["sources"]] == ["a.jsonl", "b.jsonl", "c.csv", "d"]
    stamp = (tmp_path / "out/train.parquet").stat().st_mtime_ns
    run_job(Request(output=tmp_path / "out", folder=data))
    assert (tmp_path / "out/train.parquet").stat().st_mtime_ns == stamp


def _parquet(folder: Path) -> Path:
    import pyarrow as pa

    pq.write_table(pa.table({"question": ["4"], "answer": ["a"]}), folder / "four")
    return folder / "four"


def test_the_users_own_files_are_never_taken_for_output(tmp_path: Path):
    (tmp_path / "train.parquet").write_bytes(_parquet(tmp_path).read_bytes())
    with pytest.raises(UserConfigError, match="two folders"):
        run_job(Request(output=tmp_path, folder=tmp_path))
    assert pq.read_table(tmp_path / "train.parquet").num_rows == 1


def test_output_inside_the_folder_is_not_read_as_input(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(QA)
    for _ in range(2):
        assert run_job(Request(output=tmp_path / "out", folder=tmp_path))["rows"] == 2


def test_links_out_of_a_folder_are_refused(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.json").write_bytes(QA)
    (tmp_path / "in/a.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UserDataError, match="leads out"):
        run_job(Request(output=tmp_path / "out", folder=tmp_path / "in"))


def test_an_empty_or_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(UserDataError, match="no dataset file"):
        run_job(Request(output=tmp_path / "out", folder=tmp_path))
    with pytest.raises(UserConfigError, match="not a folder"):
        run_job(Request(output=tmp_path / "out", folder=tmp_path / "none"))


ENVIRONMENT = {"DATASET_URLS": '["https://h.example/a.parquet"]', "DATASET_OUTPUT": "/mnt/data"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    def set_all(**values: str) -> None:
        for name in ("URLS", "PATH", "IMAGE", "OUTPUT", "ALLOWED_NETWORKS", "MAX_BYTES", "EXPECTED_SHA256"):
            monkeypatch.delenv(f"DATASET_{name}", raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def test_the_environment_is_the_request(environment):
    environment(**ENVIRONMENT, ALLOWED_NETWORKS="10.0.0.0/8, 127.0.0.1/32", DATASET_MAX_BYTES="1000")
    asked = from_environment()
    assert asked.urls == ("https://h.example/a.parquet",)
    assert [str(network) for network in asked.network.networks] == ["10.0.0.0/8", "127.0.0.1/32"]
    assert asked.limits.max_bytes == 1000


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"DATASET_URLS": ""}, "exactly one"),
        ({"DATASET_URLS": "[]"}, "exactly one"),
        ({"DATASET_PATH": "/mnt/input"}, "exactly one"),
        ({"DATASET_URLS": "https://h/a"}, "JSON list"),
        ({"DATASET_URLS": "[1]"}, "JSON list"),
        ({"DATASET_URLS": '["ftp://host/x"]'}, "ftp:// is not a scheme"),
        ({"DATASET_MAX_BYTES": "5GB"}, "DATASET_MAX_BYTES"),
        ({"DATASET_EXPECTED_SHA256": "abc"}, "not a SHA-256"),
        ({"DATASET_EXPECTED_SHA256": ",".join(["0" * 64] * 2)}, "2 values for 1 URLs"),
        ({"ALLOWED_NETWORKS": "lan"}, "not a network"),
    ],
)
def test_a_bad_environment_is_a_fault_of_the_request(values, words, environment):
    environment(**(ENVIRONMENT | values))
    with pytest.raises(UserConfigError, match=words):
        from_environment()


def test_the_fingerprint_tells_requests_apart(tmp_path: Path, monkeypatch):
    one, other = ask(tmp_path, "https://h/a?x=1"), ask(tmp_path, "https://h/a?x=2")
    assert one.fingerprint != other.fingerprint
    before = one.fingerprint
    monkeypatch.setattr(request, "NORMALISER", request.NORMALISER + 1)
    assert one.fingerprint != before


EIGHT = lines(*({"question": str(n), "answer": "a" if n < 6 else ""} for n in range(8)))


def test_the_result_says_how_many_rows_were_used_and_why_not_the_others(web: Web, tmp_path: Path):
    body = EIGHT + b"\n" + lines({"question": "q", "answer": "a", "id": 7})
    result = run_job(ask(tmp_path, web.serve("/a", body)))
    assert result["sentence"] == "7 of 9 rows used: 2 x answer is empty; not read: 'id'"
    assert (result["dropped_rows"], result["dropped"], result["unread"]) == (
        2,
        {"answer is empty": 2},
        ["id"],
    )
    assert run_job(ask(tmp_path / "all", web.serve("/b", QA)))["sentence"] == "all 2 rows used"


def test_a_dataset_that_loses_more_rows_than_allowed_is_refused(web: Web, tmp_path: Path):
    url = web.serve("/a", EIGHT)
    strict = Options(max_dropped_share=0.1)
    with pytest.raises(
        UserDataError, match=r"6 of 8 rows used: 2 x answer is empty\. More than 10%.*max_dropped_share"
    ):
        run_job(ask(tmp_path, url, options=strict))
    assert not (tmp_path / "train.parquet").exists()
    assert run_job(ask(tmp_path, url, options=Options(max_dropped_share=0.25)))["rows"] == 6
    most = lines({"question": "1", "answer": "a"}, *({"question": str(n), "answer": ""} for n in range(2)))
    with pytest.raises(UserDataError, match="1 of 3 rows used"):
        run_job(ask(tmp_path, web.serve("/b", most)))


def test_preference_data_is_used_when_the_config_says_so(web: Web, tmp_path: Path):
    url = web.serve("/a", lines({"prompt": "q", "chosen": "good", "rejected": "bad"}))
    with pytest.raises(UserDataError, match=r"DatasetConfig\.preference_data"):
        run_job(ask(tmp_path, url))
    run_job(ask(tmp_path, url, options=Options(preference=Preference.CHOSEN)))
    [row] = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [message["content"] for message in row["messages"]] == ["q", "good"]


def test_packed_files_and_files_in_one_object_are_read(web: Web, tmp_path: Path):
    import gzip

    urls = [
        web.serve("/a.jsonl.gz", gzip.compress(QA)),
        web.serve("/b.json", b'{"data": [' + QA.split(b"\n")[0] + b"]}"),
    ]
    result = run_job(ask(tmp_path, *urls))
    assert result["rows"] == 3
    assert report_of(tmp_path)["sources"][0]["format"] == "json lines in gzip"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "report.html",
        "report.json",
        "rows.xxh3",
        "samples.json",
        "train.parquet",
    ]


def test_a_dataset_of_too_many_rows_is_refused(web: Web, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(job, "MAX_ROWS", 3)
    with pytest.raises(UserDataError, match="over 3 rows"):
        run_job(ask(tmp_path, web.serve("/a", EIGHT)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Options()),
        ("training_config:\n  DatasetConfig:\n    shuffle_seed: 3\n", Options()),
        (
            "training_config:\n  DatasetConfig:\n    preference_data: chosen\n    max_dropped_share: '0.1'\n",
            Options(Preference.CHOSEN, 0.1),
        ),
    ],
)
def test_options_come_from_the_training_config(
    text: str, expected: Options, environment, tmp_path: Path, monkeypatch
):
    environment(**ENVIRONMENT)
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setenv("YAML_FILE_PATH", str(tmp_path / "config.yaml"))
    assert from_environment().options == expected


@pytest.mark.parametrize("value", ["maybe", "1.5"])
def test_options_that_are_wrong_are_named(value: str, environment, tmp_path: Path, monkeypatch):
    environment(**ENVIRONMENT)
    key = "preference_data" if value == "maybe" else "max_dropped_share"
    (tmp_path / "config.yaml").write_text(f"training_config:\n  DatasetConfig:\n    {key}: {value}\n")
    monkeypatch.setenv("YAML_FILE_PATH", str(tmp_path / "config.yaml"))
    with pytest.raises(UserConfigError, match=f"DatasetConfig.{key}"):
        from_environment()


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("https://huggingface.co/datasets/a/b/blob/main/x.parquet?download=true",
         "https://huggingface.co/datasets/a/b/resolve/main/x.parquet"),
        ("https://github.com/a/b/blob/main/x.jsonl", "https://github.com/a/b/raw/main/x.jsonl"),
    ],
)  # fmt: skip
def test_a_link_to_a_page_about_a_file_gets_the_file_s_link(page: str, file: str, environment):
    environment(**ENVIRONMENT | {"DATASET_URLS": json.dumps([page])})
    with pytest.raises(UserConfigError, match=f"write {file} instead"):
        from_environment()
    environment(**ENVIRONMENT | {"DATASET_URLS": json.dumps(["https://x.blob.example/blob/x.jsonl"])})
    assert from_environment().urls


ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real tokenizer whose template wants user and assistant in turn, and knows no other field."""
    from include.workloads.tuning.standin import _tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = _tokenizer()
    tokenizer.chat_template = ALTERNATING
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "phi3"}')
    return folder


USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def test_what_the_model_s_chat_template_cannot_show_is_dropped_here(
    web: Web, tmp_path: Path, tokenizer_folder: Path
):
    body = lines(
        *[{"messages": [USER, ASSISTANT]}] * 4,
        {"messages": [USER, USER, ASSISTANT]},
        {"messages": [{"role": "system", "content": "s"}, USER, ASSISTANT]},
        {"messages": [USER, {**ASSISTANT, "reasoning_content": "r"}]},
    )
    options = Options(tokenizer=tokenizer_folder)
    result = run_job(ask(tmp_path, web.serve("/a", body), options=options))
    assert result["rows"] == 4
    assert (
        "refuses its roles (user, user, assistant): Conversation roles must alternate" in result["sentence"]
    )
    assert "refuses its roles (system, user, assistant)" in result["sentence"]
    assert "does not show reasoning_content" in result["sentence"]
    assert run_job(ask(tmp_path / "without", web.url("/a")))["rows"] == 7


def test_the_config_s_chat_template_is_the_one_that_counts(web: Web, tmp_path: Path, tokenizer_folder: Path):
    body = lines({"messages": [USER, USER, ASSISTANT]})
    url = web.serve("/a", body)
    options = Options(
        tokenizer=tokenizer_folder, chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    assert run_job(ask(tmp_path, url, options=options))["rows"] == 1
    with pytest.raises(UserDataError, match=r"no usable row .*refuses its roles \(user, user, assistant\)"):
        run_job(ask(tmp_path / "own", url, options=Options(tokenizer=tokenizer_folder)))
    assert options.identity != Options(tokenizer=tokenizer_folder).identity


def test_a_folder_without_a_tokenizer_leaves_the_question_to_the_training(web: Web, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    options = Options(tokenizer=tmp_path)
    assert run_job(ask(tmp_path / "out", web.serve("/a", QA), options=options))["rows"] == 2
    assert "chat template is asked when the training starts" in caplog.text
