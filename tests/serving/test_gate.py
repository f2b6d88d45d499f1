"""What must not get in: other hosts and origins, wrong keys, bodies without end, bombs, broken HTTP."""

from __future__ import annotations

import io
import json
import socket
import struct
import time
import zlib

import httpx2
import pytest
from folders import write_tiny_model
from PIL import Image, PngImagePlugin
from served import running_server

import smalti
from smalti.errors import SmaltiError
from smalti.serving.run import Options, read_keys

KEY = "a-secret-key-of-a-test"
KEYS = [KEY, "another-key-of-a-test"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def server(pipe):
    limits = {"body_bytes": 200_000, "json_bytes": 50_000, "body_seconds": 1, "connections": 50}
    with running_server(
        pipe, limits=limits, origins=["https://friend.example"], hosts=["studio.example"]
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with httpx2.Client(base_url=server.url, timeout=30) as made:
        yield made


def raw(server, content: bytes, *, wait: float = 2, more: bytes = b"", pause: float = 0) -> bytes:
    """Send bytes as they are, and return what comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        connection.sendall(content)
        if more:
            time.sleep(pause)
            connection.sendall(more)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def post(path="/v1/images/generations", *headers: str, host="127.0.0.1", body=b'{"prompt":"x"}') -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "connection: close", f"content-length: {len(body)}"]
    kind = (
        []
        if any(header.startswith("content-type") for header in headers)
        else ["content-type: application/json"]
    )
    return "\r\n".join([*lines, *kind, *headers, "", ""]).encode() + body


def png(width=8, height=8, **changes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG", **changes)
    return file.getvalue()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost:80@evil.example",
        "localhost/evil.example",
        "",
        "[",
        "[::2]",
        "10.0.0.1",
    ],
)
def test_another_host_is_refused(client, host) -> None:
    for path in ("/", "/health", "/v1/models", "/api/jobs"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 403, path
        assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:80", "studio.example"])
def test_own_hosts_are_allowed(client, host) -> None:
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:1", "file://", "x", "http://[evil", "http://[::1"],
)
def test_another_origin_is_refused(client, origin) -> None:
    for method, path in (("POST", "/v1/images/edits"), ("POST", "/api/jobs"), ("GET", "/api/results")):
        answer = client.request(method, path, headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    site = {"sec-fetch-site": "cross-site"}
    assert client.post("/api/jobs", json={"prompt": "x"}, headers=site).status_code == 403


def test_own_and_named_origins_are_allowed(client, server) -> None:
    assert client.get("/v1/models", headers={"origin": server.url}).status_code == 200
    friend = {"origin": "https://friend.example"}
    answer = client.get("/v1/models", headers=friend)
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    asked = client.options("/v1/images/edits", headers={**friend, "access-control-request-method": "POST"})
    assert asked.status_code == 204 and "POST" in asked.headers["access-control-allow-methods"]
    assert "access-control-allow-origin" not in client.get("/v1/models").headers


def test_keys(pipe) -> None:
    with (
        running_server(pipe, keys=KEYS) as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        for path in (
            "/v1/models",
            "/api/jobs",
            "/metrics",
            "/ready",
            "/openapi.json",
            "/api/info",
            "/v1/nothing",
        ):
            for key in ("", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"):
                answer = client.get(path, headers={"authorization": key} if key else {})
                assert answer.status_code == 401, (path, key)
                assert answer.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/health").status_code == client.get("/").status_code == 200
        for key in KEYS:
            assert client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
        head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        odd = raw(server, head + b"authorization: Bearer \xff\xfe\r\n\r\n")
        assert b"401" in odd.split(b"\r\n")[0]


def test_other_addresses_need_keys(tmp_path) -> None:
    with pytest.raises(SmaltiError, match="no-auth"):
        Options(host="0.0.0.0")
    assert Options(host="0.0.0.0", keys=[KEY]).access.any_address
    assert Options(host="0.0.0.0", no_auth=True).access.any_address
    assert KEY not in repr(Options(keys=[KEY])) and KEY not in repr(Options(keys=[KEY]).access)
    file = tmp_path / "keys"
    file.write_text(f"# of a test\n\n{KEY}\n")
    assert read_keys(file) == [KEY]
    for text in ("", "# nothing\n", "short\n", f"{KEY}é\n"):
        file.write_text(text)
        with pytest.raises(SmaltiError, match="16 letters"):
            read_keys(file)
    with pytest.raises(SmaltiError, match="cors_origin"):
        Options(origins=["*"])


def test_rates(pipe) -> None:
    with running_server(pipe, limits={"rate": 3}) as server, httpx2.Client(base_url=server.url) as client:
        states = [client.post("/v1/images/edits").status_code for _ in range(5)]
        assert states == [415, 415, 415, 429, 429]
        answer = client.post("/v1/images/edits")
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert client.get("/v1/models").status_code == 200


def test_large_bodies_are_refused(client, server) -> None:
    answer = client.post("/v1/images/generations", json={"prompt": "x" * 60_000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    answer = client.post("/v1/images/edits", files={"image": b"x" * 300_000}, data={"prompt": "x"})
    assert answer.status_code == 413
    head = b"POST /v1/images/edits HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    found = raw(server, head + b"content-length: 99999999999999999999999\r\n\r\n")
    assert b" 4" in found.split(b"\r\n")[0]
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert b" 413 " in raw(server, head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 4).split(b"\r\n")[0]


@pytest.mark.parametrize("length", [b"-1", b"1e9", b"0x10", b"5, 6", b"", b"9" * 30])
def test_wrong_lengths_are_refused(server, length) -> None:
    head = b"POST /v1/images/edits HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: "
    found = raw(server, head + length + b"\r\nconnection: close\r\n\r\nxxxxx")
    assert b" 4" in found.split(b"\r\n")[0]
    assert json.loads(found.split(b"\r\n\r\n", 1)[1])["error"]["message"]


def test_slow_bodies_and_headers_end(server) -> None:
    started = time.monotonic()
    slow = post(body=b'{"prompt":').replace(b"content-length: 10", b"content-length: 100")
    found = raw(server, slow, wait=10)
    assert b" 408 " in found.split(b"\r\n")[0]
    assert raw(server, b"GET / HTTP/1.1\r\nhost: local", wait=10) == b""
    assert raw(server, b"", wait=10) == b""
    assert raw(server, b"GET / HTTP/1.1\r\nx-a: 1\r\n", more=b"x-b: 2\r\n", pause=0.5, wait=10) == b""
    assert time.monotonic() - started < 8


def test_connections_are_counted(server) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(60)]
    try:
        answers = []
        for connection in held:
            connection.settimeout(0.2)
            try:
                answers.append(connection.recv(20))
            except TimeoutError:
                answers.append(b"")
        assert 5 <= sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) <= 20
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: b\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_broken_http_is_an_error_object(server, content) -> None:
    found = raw(server, content)
    if found:
        assert b" 4" in found.split(b"\r\n")[0]
        assert json.loads(found.split(b"\r\n\r\n", 1)[1])["error"]["message"]


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "image/png"],
)
def test_content_types_that_pages_can_send_are_refused(client, kind) -> None:
    answer = client.post("/v1/images/generations", content=b'{"prompt":"x"}', headers={"content-type": kind})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        b"[" * 100_000,
        b'{"n":' + b"9" * 5000 + b"}",
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"prompt":"x","\\ud800":1}',
        json.dumps({f"a{number}": 1 for number in range(100)}).encode(),
    ],
)
def test_broken_json_is_refused(client, body) -> None:
    answer = client.post("/v1/images/generations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 413)
    assert answer.json()["error"]["message"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of zeros, much smaller than its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" * min((width * 3 + 1) * height, 50_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 30_000_000, zip=True)
    return png(pnginfo=info)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        b"GIF89a" + b"\0" * 50,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\x89PNG\r\n\x1a\n",
        png()[:40],
        bomb(5000, 5000),
        bomb(9000, 1),
        bomb(100_000, 100_000),
        b"BM" + b"\0" * 60,
        b"SIMPLE  =                    T",
        text_bomb(),
    ],
    ids=["empty", "text", "gif", "eps", "magic", "cut", "bomb", "long", "huge", "bmp", "fits", "text-bomb"],
)
@pytest.mark.parametrize("field", ["image", "mask"])
def test_bad_images_are_refused(client, content, field) -> None:
    files = {"image": ("a.png", png(64, 64), "image/png"), field: ("b.png", content, "image/png")}
    answer = client.post("/v1/images/edits", files=files, data={"prompt": "a blue square"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


def multipart(*parts: bytes) -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + b"--B--\r\n"


FIELD = b'content-disposition: form-data; name="prompt"\r\n\r\nx'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", multipart(FIELD)),
        ("multipart/form-data; boundary=", multipart(FIELD)),
        ("multipart/form-data; boundary=" + "b" * 10_000, multipart(FIELD)),
        ("multipart/form-data; boundary=B", b""),
        ("multipart/form-data; boundary=B", b"--B\r\n"),
        ("multipart/form-data; boundary=B", multipart(b"no colon\r\n\r\nx")),
        ("multipart/form-data; boundary=B", multipart(b"content-disposition: form-data\r\n\r\nx")),
        ("multipart/form-data; boundary=B", multipart(*[FIELD] * 70)),
        ("multipart/form-data; boundary=B", multipart(FIELD + b"x" * 70_000)),
        ("multipart/form-data; boundary=B", multipart(b"x-a: " + b"b" * 20_000 + b"\r\n" + FIELD)),
        ("multipart/form-data; boundary=B", multipart(FIELD.replace(b"prompt", b"p" * 20_000))),
        ("multipart/form-data; boundary=B; charset=nonsense", multipart(FIELD)),
        ("multipart/form-data; boundary=B", multipart(FIELD, FIELD)),
        ("multipart/form-data; boundary=B", multipart(FIELD.replace(b"name=", b'filename="a"; name='))),
        ("multipart/form-data; boundary=B", multipart(*[FIELD.replace(b"prompt", b'x"; filename="y')] * 20)),
    ],
)
def test_bad_forms_are_refused(server, kind, body) -> None:
    found = raw(server, post("/v1/images/edits", f"content-type: {kind}", body=body))
    assert b" 4" in found.split(b"\r\n")[0], found[:300]
    assert json.loads(found.split(b"\r\n\r\n", 1)[1])["error"]["message"]


def test_the_studio_s_files_are_the_only_ones(client, server) -> None:
    assert client.get("/").headers["content-type"].startswith("text/html")
    for path in (
        "/../run.py",
        "/..%2frun.py",
        "/%2e%2e/run.py",
        "/index.html/",
        "//etc/passwd",
        "/.",
        "/index.html%00",
    ):
        found = raw(server, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        assert b" 404 " in found.split(b"\r\n")[0], path


def test_methods_that_do_not_fit(client) -> None:
    for method, path, status in (
        ("GET", "/v1/images/edits", 405),
        ("PUT", "/api/jobs", 405),
        ("DELETE", "/v1/models", 405),
        ("TRACE", "/", 405),
        ("POST", "/styles/base.css", 405),
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/v1/images", 404),
    ):
        answer = client.request(method, path)
        code = answer.json()["error"]["code"]
        assert (answer.status_code, code) == (
            status,
            {404: "not_found", 405: "method_not_allowed"}[status],
        ), path
