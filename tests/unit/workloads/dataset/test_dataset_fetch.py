"""Downloading: pinned connections, redirects, caps, tries, resume."""

from __future__ import annotations

import datetime
import logging
import os
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from include.workloads.contract import TryAgain, UserConfigError, UserDataError
from include.workloads.dataset.connection import PassingFault, PinnedClient, parse, shown
from include.workloads.dataset.fetch import Fetcher, sha256_of
from include.workloads.dataset.request import from_environment
from include.workloads.network import AddressPolicy
from tests.support.dataset_server import LOOPBACK, Web, send

BODY = b"PAR1" + bytes(range(256)) * 40


def test_a_file_arrives_whole_with_its_identity(web: Web, fetcher: Fetcher, target: Path):
    url = web.serve("/a", BODY, ETag='"v1"', Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    fetched = fetcher.fetch(url, target)
    assert target.read_bytes() == BODY
    assert (fetched.bytes, fetched.sha256) == (len(BODY), sha256_of(target))
    assert (fetched.etag, fetched.last_modified) == ('"v1"', "Mon, 01 Jan 2024 00:00:00 GMT")
    assert not target.with_name("file.part").exists()


def test_the_connection_goes_to_the_checked_address_under_the_real_name(web: Web, make_fetcher, target: Path):
    looked_up = []

    def resolve(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    web.serve("/a", BODY)
    make_fetcher(resolve).fetch(web.url("/a", "data.example"), target)
    assert looked_up == ["data.example"]
    assert web.asked[0][1]["Host"] == f"data.example:{web.port}"


def test_a_name_that_changes_its_address_between_check_and_use_gains_nothing(
    web: Web, make_fetcher, target: Path
):
    """DNS rebinding: the second answer is the metadata service; no second lookup happens for the connection."""
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    web.serve("/a", BODY)
    web.redirect("/again", web.url("/a", "rebind.example"))
    fetcher = make_fetcher(lambda host, port: next(answers))
    with pytest.raises(UserConfigError, match=r"redirects to .*169\.254\.169\.254.* is not a public address"):
        fetcher.fetch(web.url("/again", "rebind.example"), target)
    assert [path for path, _ in web.asked] == ["/again"]


@pytest.mark.parametrize(
    "to",
    ["http://10.0.0.1/x", "http://169.254.169.254/latest/meta-data", "http://[::1]/x", "//192.168.0.1/x"],
)
def test_redirects_to_private_addresses_are_refused(to, web: Web, fetcher: Fetcher, target: Path, slept):
    url = web.redirect("/go", to)
    with pytest.raises(UserConfigError, match=r"/go redirects to .*is not a public address"):
        fetcher.fetch(url, target)
    assert slept == []


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"])
def test_redirects_to_other_schemes_are_refused(to, web: Web, fetcher: Fetcher, target: Path):
    with pytest.raises(UserConfigError, match="not an http"):
        fetcher.fetch(web.redirect("/go", to), target)


def test_three_redirects_are_followed_and_no_more(web: Web, make_fetcher, target: Path):
    web.serve("/end", BODY)
    for step in range(4):
        web.redirect(f"/{step}", f"/{step - 1}" if step else "/end")
    make_fetcher().fetch(web.url("/2"), target)
    assert target.read_bytes() == BODY
    with pytest.raises(UserConfigError, match="more than 3 times"):
        make_fetcher().fetch(web.url("/3"), target.with_name("other"))


def test_too_big_by_its_length_is_refused_before_the_body(web: Web, make_fetcher, target: Path):
    web.routes["/big"] = lambda handler: send(handler, length=10**12)
    with pytest.raises(UserDataError, match="limit"):
        make_fetcher(max_bytes=1000).fetch(web.url("/big"), target)


def test_too_big_without_a_length_is_stopped_at_the_limit(web: Web, make_fetcher, target: Path):
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(b"x" * 10_000)
        except OSError:
            return

    web.routes["/big"] = endless
    with pytest.raises(UserDataError, match="limit"):
        make_fetcher(max_bytes=100_000).fetch(web.url("/big"), target)
    assert target.with_name("file.part").stat().st_size <= 100_000


def test_the_size_limit_counts_all_files_together(web: Web, make_fetcher, target: Path):
    web.serve("/a", b"x" * 600)
    fetcher = make_fetcher(max_bytes=1000)
    fetcher.fetch(web.url("/a"), target)
    with pytest.raises(UserDataError, match="limit"):
        fetcher.fetch(web.url("/a"), target.with_name("second"))


def test_a_dripping_server_meets_the_time_limit(web: Web, make_fetcher, target: Path):
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        try:
            while not stop.wait(0.02):
                handler.wfile.write(b"x")
        except OSError:
            return

    web.routes["/slow"] = drip
    with pytest.raises(TryAgain, match="took longer"):
        make_fetcher(max_seconds=0.3).fetch(web.url("/slow"), target)
    stop.set()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_tried_again_with_growing_waits(status, web: Web, fetcher, target, slept):
    answers = iter([status, status, 200])
    web.routes["/a"] = lambda handler: send(handler, BODY, next(answers))
    fetcher.fetch(web.url("/a"), target)
    assert target.read_bytes() == BODY
    assert slept == [2, 4]


def test_three_tries_then_a_sentence_that_says_so(web: Web, fetcher: Fetcher, target: Path, slept):
    web.routes["/a"] = lambda handler: send(handler, status=503, Retry_After="7")
    with pytest.raises(TryAgain, match=r"/a: the server answered 503 \(tried 3 times\)"):
        fetcher.fetch(web.url("/a"), target)
    assert slept == [7, 7]


@pytest.mark.parametrize(("status", "words"), [(404, "no such file"), (403, "signed link"), (418, "418")])
def test_lasting_faults_are_not_tried_again(status, words, web: Web, fetcher: Fetcher, target: Path):
    web.routes["/a"] = lambda handler: send(handler, status=status)
    with pytest.raises(UserConfigError, match=words):
        fetcher.fetch(web.url("/a"), target)
    assert len(web.asked) == 1


def test_nobody_listens(fetcher: Fetcher, target: Path):
    with pytest.raises(TryAgain, match="no connection to 127"):
        fetcher.fetch("http://127.0.0.1:1/a", target)


def ranged(handler: BaseHTTPRequestHandler, body: bytes, etag: str, cut: int) -> None:
    """Serve ranges of a body, and break off after `cut` bytes of it."""
    asked = handler.headers.get("Range")
    if asked and handler.headers.get("If-Range") == etag:
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        send(handler, body[start:], 206, Content_Range=span, ETag=etag)
    else:
        send(handler, body[:cut], length=len(body), ETag=etag)


def test_a_broken_download_goes_on_where_it_stopped(web: Web, fetcher: Fetcher, target: Path):
    web.routes["/a"] = lambda handler: ranged(handler, BODY, '"v1"', 3000)
    fetched = fetcher.fetch(web.url("/a"), target)
    assert target.read_bytes() == BODY
    assert fetched.bytes == len(BODY)
    assert [headers.get("Range") for _, headers in web.asked] == [None, "bytes=3000-"]


def test_another_pod_goes_on_where_the_first_was_killed(web: Web, make_fetcher, target: Path):
    web.routes["/a"] = lambda handler: ranged(handler, BODY, '"v1"', 3000)
    with pytest.raises(TryAgain):
        make_fetcher(attempts=1).fetch(web.url("/a"), target)
    assert not target.exists()
    make_fetcher(attempts=1).fetch(web.url("/a"), target)
    assert target.read_bytes() == BODY


def test_a_changed_file_is_never_glued_to_the_old_part(web: Web, make_fetcher, target: Path):
    web.routes["/a"] = lambda handler: ranged(handler, BODY, '"v1"', 3000)
    with pytest.raises(TryAgain):
        make_fetcher(attempts=1).fetch(web.url("/a"), target)
    new = BODY[::-1]
    web.routes["/a"] = lambda handler: ranged(handler, new, '"v2"', len(new))
    make_fetcher(attempts=1).fetch(web.url("/a"), target)
    assert target.read_bytes() == new


def test_a_truncated_body_without_ranges_is_a_fault_not_a_short_file(web: Web, fetcher, target: Path):
    web.routes["/a"] = lambda handler: send(handler, BODY[:100], length=len(BODY))
    with pytest.raises(TryAgain, match=r"broke off|ended after"):
        fetcher.fetch(web.url("/a"), target)
    assert not target.exists()


def test_a_file_that_an_earlier_pod_completed_is_not_downloaded_again(web: Web, make_fetcher, target: Path):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        fresh = handler.headers.get("If-None-Match") != '"v1"'
        send(handler, BODY if fresh else b"", 200 if fresh else 304, ETag='"v1"')

    web.routes["/a"] = answer
    first = make_fetcher().fetch(web.url("/a"), target)
    second = make_fetcher().fetch(web.url("/a"), target)
    assert (second.sha256, second.bytes) == (first.sha256, first.bytes)
    assert web.asked[-1][1]["If-None-Match"] == '"v1"'
    assert len(web.asked) == 2


def test_an_empty_file_is_refused(web: Web, fetcher: Fetcher, target: Path):
    with pytest.raises(UserDataError, match="empty"):
        fetcher.fetch(web.serve("/a", b""), target)


def test_compressed_transfer_is_refused(web: Web, fetcher: Fetcher, target: Path):
    with pytest.raises(UserDataError, match="compressed"):
        fetcher.fetch(web.serve("/a", b"x", Content_Encoding="gzip"), target)


def test_query_and_password_are_sent_but_never_told(web: Web, make_fetcher, target: Path, slept, caplog):
    caplog.set_level(logging.DEBUG)
    answers = iter([503, 200])
    web.routes["/a"] = lambda handler: send(handler, BODY, next(answers))
    url = web.url("/a?sig=CANARYQUERY").replace("http://", "http://me:CANARYPASS@")
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    make_fetcher().fetch(url, target)
    assert web.asked[0][0] == "/a?sig=CANARYQUERY"
    assert web.asked[0][1]["Authorization"].startswith("Basic ")
    assert "CANARY" not in caplog.text
    with pytest.raises(UserConfigError) as fault:
        make_fetcher().fetch(url.replace("/a?", "/none?"), target)
    assert "CANARY" not in str(fault.value)


def test_credentials_stay_with_the_first_host(web: Web, make_fetcher, target: Path):
    web.serve("/end", BODY)
    web.redirect("/a", web.url("/end", "other.example"))
    make_fetcher(lambda host, port: ["127.0.0.1"]).fetch(
        web.url("/a", "data.example").replace("http://", "http://me:secret@"), target
    )
    assert "Authorization" in web.asked[0][1]
    assert "Authorization" not in web.asked[1][1]


@pytest.mark.parametrize(
    "url", ["", "data.parquet", "ftp://x/y", "http://", "https://[bad/x?sig=CANARY", "http://h:99999/"]
)
def test_what_is_no_url_is_named(url):
    with pytest.raises(UserConfigError, match=r"not a URL|not an http|no host") as fault:
        parse(url)
    assert "CANARY" not in str(fault.value)


def test_shown_keeps_only_what_may_be_seen():
    assert shown("https://me:pw@h.example:444/a/b.parquet?sig=1#f") == "https://h.example:444/a/b.parquet"


@pytest.fixture
def tls_web(tmp_path: Path):
    """An HTTPS server whose certificate is for data.example, and that certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "data.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("data.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    names: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/plain":
                send(self, status=302, Location="http://data.example/x")
            else:
                send(self, BODY)

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.sni_callback = lambda sock, name, ctx: names.append(name)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    trust = ssl.create_default_context(cafile=str(pem))
    client = PinnedClient(AddressPolicy(LOOPBACK, lambda host, port: ["127.0.0.1"]), tls=trust)
    yield server.server_port, client, names
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_pinned_https_connection_proves_the_name_not_the_address(tls_web, target: Path):
    port, client, names = tls_web
    Fetcher(client).fetch(f"https://data.example:{port}/a", target)
    assert target.read_bytes() == BODY
    assert names == ["data.example"]


def test_a_certificate_for_another_name_is_refused(tls_web):
    port, client, _ = tls_web
    with pytest.raises(PassingFault, match=r"no secure connection to other\.example"):
        client.open(f"https://other.example:{port}/a", {})


def test_https_never_falls_back_to_http(tls_web):
    port, client, _ = tls_web
    with pytest.raises(UserConfigError, match="from https to plain http"):
        client.open(f"https://data.example:{port}/plain", {})


def half_done(web: Web, make_fetcher, target: Path, etag: str = '"v1"') -> str:
    """A download of BODY that broke off after 3000 bytes."""
    web.routes["/a"] = lambda handler: send(handler, BODY[:3000], length=len(BODY), ETag=etag)
    with pytest.raises(TryAgain):
        make_fetcher(attempts=1).fetch(web.url("/a"), target)
    return web.url("/a")


REST = f"bytes 3000-{len(BODY) - 1}/{len(BODY)}"


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"v2"', "Content-Range": REST},
        {"Content-Range": REST},
        {"ETag": '"v1"', "Content-Range": f"bytes 3000-3099/{len(BODY)}"},
        {"ETag": '"v1"', "Content-Range": "bytes 3000-9999/*"},
        {"ETag": '"v1"', "Content-Range": f"bytes 2999-{len(BODY) - 1}/{len(BODY)}"},
        {"ETag": '"v1"'},
    ],
)
def test_a_part_that_does_not_complete_the_same_version_is_thrown_away(
    headers, web: Web, make_fetcher, target: Path
):
    url = half_done(web, make_fetcher, target)

    def other(handler: BaseHTTPRequestHandler) -> None:
        if "Range" in handler.headers:
            named = {name.replace("-", "_"): value for name, value in headers.items()}
            send(handler, b"x" * 100, 206, **named)
        else:
            send(handler, BODY, ETag='"v2"')

    web.routes["/a"] = other
    make_fetcher().fetch(url, target)
    assert target.read_bytes() == BODY


def test_a_part_that_says_it_is_the_rest_and_ends_early_is_no_whole_file(
    web: Web, make_fetcher, target: Path
):
    url = half_done(web, make_fetcher, target)
    web.routes["/a"] = lambda handler: send(handler, BODY[3000:5000], 206, ETag='"v1"', Content_Range=REST)
    with pytest.raises(TryAgain, match=r"ended after 5000 of 10244 bytes"):
        make_fetcher(attempts=1).fetch(url, target)
    assert not target.exists()


def test_a_part_that_nobody_asked_for_is_no_file(web: Web, make_fetcher, target: Path):
    web.routes["/a"] = lambda handler: send(
        handler, BODY[:100], 206, ETag='"v1"', Content_Range=f"bytes 0-99/{len(BODY)}"
    )
    with pytest.raises(TryAgain, match="another part of the file"):
        make_fetcher().fetch(web.url("/a"), target)
    assert not target.exists()


def test_a_credential_goes_to_the_host_that_it_is_for_and_no_other(web: Web, target: Path):
    web.redirect("/private", web.url("/storage", "storage.example.com"))
    web.serve("/storage", b"x")
    policy = AddressPolicy(LOOPBACK, lambda host, port: ["127.0.0.1"])
    client = PinnedClient(policy, authorization="Bearer CANARY")
    Fetcher(client).fetch(web.url("/private"), target)
    assert [(path, headers.get("Authorization")) for path, headers in web.asked] == [
        ("/private", "Bearer CANARY"),
        ("/storage", None),
    ]
    assert "CANARY" not in repr(client)


@pytest.mark.parametrize(
    ("authorization", "said"), [("", "kaito.sh/dataset-secret"), ("Bearer CANARY", "has no access to it")]
)
def test_a_refusal_says_how_a_credential_is_given(authorization: str, said: str, web: Web, target: Path):
    web.routes["/d"] = lambda handler: send(handler, status=403)
    client = PinnedClient(AddressPolicy(LOOPBACK), authorization=authorization)
    with pytest.raises(UserConfigError, match=said) as fault:
        Fetcher(client).fetch(web.url("/d"), target)
    assert "CANARY" not in str(fault.value)


@pytest.mark.parametrize("value", ["Bearer a\nX-Evil: 1", "Bearer \x00", "Bearer é"])
def test_a_credential_that_is_no_header_is_refused(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATASET_URLS", '["https://example.com/x"]')
    monkeypatch.setattr(os, "environ", {**os.environ, "DATASET_AUTHORIZATION": value})  # NUL is no variable's
    with pytest.raises(UserConfigError, match="AUTHORIZATION"):
        from_environment()
