"""Bad requests by the thousand: fields, types, forms, headers, images, masks, identifiers and paths.

Each comes from `random.Random(f"{seed}/{index}")`, so that one that fails can be sent again.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx2
from PIL import Image

from smalti.serving.fields import FIELDS

NAMES = list(FIELDS)
PATHS = [
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/api/jobs",
    "/api/selections",
]
VALUES: list[Any] = [
    *[None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf")],
    *[
        "",
        " ",
        "x",
        "0",
        "-1",
        "1e5",
        "NaN",
        "true",
        "auto",
        "\0",
        "\ud800",
        "\u202e",
        "é" * 100,
        "x" * 20_000,
    ],
    *[
        "../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "data:image/png;base64,AAAA",
    ],
    *[[], [1], [[]], [0.9, 0.1], [0, 1, 2, 3], ["a"] * 100, {}, {"a": 1}, {"image_url": "x"}, {"$ref": "#"}],
    *[
        "halton:window=-1",
        "shift:1e99",
        "threshold:",
        "history:a=b,c=d",
        "rare:share=9",
        "list",
        "1x1",
        "99999x99999",
    ],
    *["'; DROP TABLE jobs; --", "{{7*7}}", "%s%n", "<script>", "${jndi:ldap://x}", "a\r\nb: c"],
]
IDS = [
    "",
    "x",
    "..",
    "%2e%2e",
    "%00",
    "a" * 26,
    "A" * 26,
    "0" * 25,
    "a" * 3000,
    "é",
    "%ff",
    "a%2fb",
    "*",
    "' OR 1=1",
]
_CONTENT_TYPES = [
    *["application/json", "application/json; charset=utf-16", "application/x-www-form-urlencoded"],
    *["multipart/form-data", "multipart/form-data; boundary=B", "multipart/form-data; boundary=\x7f"],
    *["text/plain", "image/png", "", "x"],
]
_HEADER_NAMES = [
    *["host", "origin", "authorization", "content-type", "accept", "last-event-id", "sec-fetch-site"],
    *["x" * 100, "range"],
]
_HEADER_VALUES = [
    *["", "x", "null", "*", "evil.example", "http://evil.example", "Bearer x", "-1", "y" * 15_000, "é"],
]
_FORMS = [
    *["/api/jobs/{}", "/api/jobs/{}/cancel", "/api/jobs/{}/events", "/api/results/{}", "/api/selections/{}"],
    *["/api/results/{}/content", "/api/results/{}/thumbnail", "/v1/models/{}", "/{}", "/v1/images/{}"],
]
_LEAKS = re.compile(r"Traceback|File \"|(?<![\w/])/(?:work|root|home|usr|tmp|etc|var|opt)/[\w.]")

Send = Callable[[httpx2.Client], httpx2.Response]


def bad_request(seed: int, index: int) -> tuple[str, Send]:
    """Return a short description of a request, and what sends it."""
    rng = random.Random(f"{seed}/{index}")
    kind = rng.choice([_json, _json, _json, _form, _form, _form, _raw_body, _headers, _ids, _query])
    description, send = kind(rng)
    return f"{seed}/{index} {description}", send


def fault(answer: httpx2.Response) -> str | None:
    """Return what is wrong with an answer, or None: only success and error objects are right."""
    text = answer.text
    if _LEAKS.search(text.replace("/etc/passwd", "")):  # which requests name themselves
        return f"it says too much: {text[:300]}"
    if answer.status_code < 300:
        return None
    if not 400 <= answer.status_code < 500:
        return f"status {answer.status_code}: {text[:300]}"
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"no error object: {text[:300]}"
    if (
        set(error) != {"message", "type", "param", "code"}
        or not error["message"]
        or len(error["message"]) > 300
    ):
        return f"a wrong error object: {text[:300]}"
    return None


def _fields(rng: random.Random) -> dict[str, Any]:
    fields: dict[str, Any] = {"prompt": "a red circle", "num_inference_steps": 1, "n": 1}
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(
            [*NAMES, *NAMES, "image", "images", "mask", "nonsense", "", "x" * 500, "a[b]", "prompt[]"]
        )
        fields[name] = rng.choice(VALUES)
    if rng.random() < 0.2:
        fields.pop(rng.choice(list(fields)))
    if rng.random() < 0.3:
        fields["operation"] = rng.choice(["edit", "variation", "generation", "selection", "fly", None, 7])
    return fields


def _json(rng: random.Random) -> tuple[str, Send]:
    path, fields = rng.choice(PATHS), _fields(rng)
    if path != PATHS[0] and rng.random() < 0.5:
        fields["image"] = rng.choice(VALUES)
    content = json.dumps(fields).encode()
    headers = {"content-type": "application/json"}
    return f"{path} {content[:200]!r}", lambda client: client.post(path, content=content, headers=headers)


def _form(rng: random.Random) -> tuple[str, Send]:
    path = rng.choice(PATHS[1:])
    fields = {}
    for name, value in _fields(rng).items():
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            continue
        fields[name or "x"] = value if isinstance(value, str) else json.dumps(value)
    files = [("image", ("a.png", _image(rng), "image/png"))]
    for name in ("mask", "image", "image[]", "mask[]", "prompt", "other"):
        if rng.random() < 0.25:
            file, kind = rng.choice(["a.png", "../../a", "", "a" * 300]), rng.choice(["image/png", "", "x"])
            files.append((name, (file, _image(rng), kind)))
    return f"{path} {fields} {[name for name, _ in files]}", lambda client: client.post(
        path, data=fields, files=files
    )


def _image(rng: random.Random) -> bytes:
    """Return an image that is right, odd, damaged or none."""
    size = rng.choice([(64, 64), (64, 64), (1, 1), (7, 300), (300, 7), (130, 70)])
    mode = rng.choice(["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
    form = rng.choice(["PNG", "PNG", "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    file = io.BytesIO()
    try:
        Image.new(mode, size, rng.choice([0, 255, 1])).save(file, form)
    except (OSError, ValueError, KeyError):
        Image.new("RGB", size).save(file, "PNG")
    content = bytearray(file.getvalue())
    fate = rng.random()
    if fate < 0.3:
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif fate < 0.4:
        del content[rng.randrange(len(content)) :]
    elif fate < 0.45:
        return rng.randbytes(rng.randint(0, 200))
    elif fate < 0.5:
        return _large_header(rng)
    return bytes(content)


def _large_header(rng: random.Random) -> bytes:
    """Return a PNG whose header promises more than there is."""
    sides = [rng.choice([0, 1, 5000, 8193, 2**31 - 1, 2**32 - 1]) for _ in range(2)]
    header = struct.pack(">IIBBBBB", *sides, 8, rng.choice([0, 2, 3, 6]), 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 99))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def _raw_body(rng: random.Random) -> tuple[str, Send]:
    path = rng.choice(PATHS)
    kind = rng.choice(_CONTENT_TYPES)
    good = b'--B\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na red circle\r\n--B--\r\n'
    content = bytearray(
        rng.choice([good, b'{"prompt": "a red circle"}', b"[]", b"", rng.randbytes(50), b"{" * 2000])
    )
    for _ in range(rng.randint(0, 4)):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    body = bytes(content)
    headers = {"content-type": kind}
    return f"{path} {kind!r} {body[:100]!r}", lambda client: client.post(path, content=body, headers=headers)


def _headers(rng: random.Random) -> tuple[str, Send]:
    path = rng.choice([*PATHS, "/", "/v1/models", "/api/results"])
    name, value = rng.choice(_HEADER_NAMES), rng.choice(_HEADER_VALUES)
    method = rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"])
    headers = {name: value.encode()}
    return f"{method} {path} {name}: {value[:40]!r}", lambda client: client.request(
        method, path, headers=headers
    )


def _ids(rng: random.Random) -> tuple[str, Send]:
    form = rng.choice(_FORMS)
    path = form.format(rng.choice(IDS))
    method = rng.choice(["GET", "POST", "DELETE"])
    return f"{method} {path[:100]}", lambda client: client.request(method, path)


def _query(rng: random.Random) -> tuple[str, Send]:
    path = rng.choice(["/api/jobs", "/api/results", "/api/selections/" + "a" * 26])
    name = rng.choice(["limit", "before", "threshold", "share", "previews", "x"])
    value = rng.choice(["", "0", "-1", "1e999", "nan", "x", "1" * 5000, "5.5", "\0", "é"])
    params = {name: value}
    return f"{path} {name}={value[:40]!r}", lambda client: client.get(path, params=params)
