"""From the body of an HTTP request to fields and files, as JSON or as a form, with bounds on everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request

from smalti.common.checks import quoted
from smalti.common.files import parse_json
from smalti.errors import SmaltiError
from smalti.serving.errors import ApiError, invalid
from smalti.serving.fields import from_texts
from smalti.serving.limits import Limits
from smalti.serving.pictures import read_data_url

_MOST_FILES, _MOST_FIELDS, _PART_BYTES = 17, 64, 65_536
_FILES = ("image", "mask")


@dataclass
class Body:
    """What a request holds.

    Attributes:
        fields: values by name, as JSON has them.
        image, mask: files, or None.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    image: bytes | None = None
    mask: bytes | None = None


async def read_body(request: Request, limits: Limits, *, files: bool) -> Body:
    """Read the body of a request.

    Args:
        files: whether images may come along: in a form, or in JSON as data URLs.

    Raises:
        ApiError: 400, 413 or 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        content = await request.body()
        if not files and len(content) > limits.json_bytes:
            raise ApiError(413, f"a JSON body may have at most {limits.json_bytes} bytes", "body_too_large")
        return _from_json(content, files)
    if kind == "multipart/form-data" and files:
        return await _from_form(request)
    allowed = "application/json or multipart/form-data" if files else "application/json"
    raise ApiError(
        415, f"the content type must be {allowed}, not {quoted(kind, 60)}", "unsupported_media_type"
    )


def _from_json(content: bytes, files: bool) -> Body:
    try:
        values = parse_json(content, "the body")
    except SmaltiError as error:
        raise invalid(str(error), None, "invalid_json") from error
    if not isinstance(values, dict):
        raise invalid(f"the body must be a JSON object, not {type(values).__name__}", None, "invalid_json")
    if len(values) > _MOST_FIELDS:
        raise invalid(
            f"the body may have at most {_MOST_FIELDS} fields, not {len(values)}", None, "invalid_json"
        )
    body = Body({name: value for name, value in values.items() if name not in ("image", "images", "mask")})
    if not files:
        for name in ("image", "images", "mask"):
            if values.get(name) is not None:
                body.fields[name] = values[name]  # refused as an unknown field
        return body
    given = values.get("images", values.get("image"))
    if isinstance(given, list):
        if len(given) > 1:
            raise invalid(f"image must be one image, not {len(given)}", "image")
        given = given[0] if given else None
    if given is not None:
        body.image = _from_url(given, "image")
    if values.get("mask") is not None:
        body.mask = _from_url(values["mask"], "mask")
    return body


def _from_url(value: Any, name: str) -> bytes:
    """Return the content of a data URL, or of an object that holds one as `image_url`."""
    url = value.get("image_url") if isinstance(value, Mapping) else value
    if isinstance(url, Mapping):
        url = url.get("url")
    if not isinstance(url, str):
        raise invalid(f"{name} must be a data URL, not {quoted(value, 60)}", name, "invalid_type")
    return read_data_url(url, name)


async def _from_form(request: Request) -> Body:
    try:
        form = await request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_PART_BYTES)
    except (ApiError, ClientDisconnect):
        raise
    except Exception as error:  # the parser and the codecs raise nearly every kind for damaged bodies
        reason = getattr(error, "detail", None) or getattr(error, "message", None) or "it is damaged"
        raise invalid(f"the form cannot be read: {reason}", None, "invalid_form") from error
    try:
        return await _read_form(form)
    finally:
        await form.close()


async def _read_form(form: FormData) -> Body:
    texts: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for key, value in form.multi_items():
        name = key.removesuffix("[]")
        if isinstance(value, UploadFile):
            if name not in _FILES:
                raise invalid(f"{quoted(key, 60)} must not be a file", name[:80], "invalid_type")
            if name in files:
                raise invalid(f"{name} must be one file", name)
            files[name] = await value.read()
        elif name in _FILES:
            if value:
                raise invalid(
                    f"Invalid type for '{name}': expected a file, but got a string instead.",
                    name,
                    "invalid_type",
                )
        elif key.endswith("[]"):
            texts.setdefault(name, [])
            if not isinstance(texts[name], list):
                raise invalid(f"{quoted(name, 60)} is given twice", name[:80])
            texts[name].append(value)
        elif name in texts:
            raise invalid(f"{quoted(name, 60)} is given twice", name[:80])
        else:
            texts[name] = value
    joined = {name: ",".join(text) if isinstance(text, list) else text for name, text in texts.items()}
    return Body(from_texts(joined), files.get("image"), files.get("mask"))
