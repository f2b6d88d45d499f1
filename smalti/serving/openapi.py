"""The description of the endpoints in OpenAPI's format, derived from the fields."""

from __future__ import annotations

from typing import Any

from smalti.serving.fields import FIELDS

_FILE = {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP."}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                name: {"type": ["string", "null"]} for name in ("message", "type", "param", "code")
            },
        }
    },
}
_ID = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
_PAGE = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200}},
    {"name": "before", "in": "query", "schema": {"type": "number"}, "description": "A time of creation."},
]
_GETS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "/v1/models": ("List the models and the aliases.", []),
    "/v1/models/{id}": ("Return a model.", _ID),
    "/api/info": ("Return models, fields and limits.", []),
    "/api/jobs": ("List jobs, the newest first.", _PAGE),
    "/api/jobs/{id}": ("Return a job.", _ID),
    "/api/jobs/{id}/events": ("Follow a job by server-sent events; Last-Event-ID resumes.", _ID),
    "/api/results": ("List results, the newest first.", _PAGE),
    "/api/results/{id}": ("Return a result.", _ID),
    "/api/results/{id}/content": ("Return the file of a result, or of a job's source or mask.", _ID),
    "/api/results/{id}/thumbnail": ("Return a small WebP.", _ID),
    "/api/selections/{id}": ("Return a selection with another threshold or share.", _ID),
    "/health": ("Say that the process answers; needs no key.", []),
    "/ready": ("Say whether requests are taken: 200 or 503.", []),
    "/metrics": ("Return numbers for Prometheus.", []),
}
_POSTS: dict[str, tuple[str, str, str]] = {
    "/v1/images/generations": ("generation", "200", "Draw images from a prompt."),
    "/v1/images/edits": ("edit", "200", "Edit an image."),
    "/v1/images/variations": ("variation", "200", "Draw variations of an image."),
    "/api/selections": ("selection", "200", "Select the tokens that an edit would change, without drawing."),
}


def document(version: str) -> dict[str, Any]:
    """Return the OpenAPI document.

    Example:
        >>> sorted(document("1.0")["paths"])[:2]
        ['/api/info', '/api/jobs']
    """
    paths: dict[str, dict[str, Any]] = {}
    for path, (summary, parameters) in _GETS.items():
        paths.setdefault(path, {})["get"] = _operation(summary, "200", parameters=parameters)
    for path, (name, status, summary) in _POSTS.items():
        body = _body(_schema(name), files=name != "generation")
        paths.setdefault(path, {})["post"] = _operation(summary, status, body=body)
    paths["/api/jobs"]["post"] = _operation("Start a job.", "202", body=_body(_job_schema(), files=True))
    paths["/api/jobs/{id}/cancel"] = {"post": _operation("Cancel a job.", "200", parameters=_ID)}
    for path in ("/api/jobs/{id}", "/api/results/{id}"):
        paths[path]["delete"] = _operation("Delete it.", "204", parameters=_ID)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Smalti", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _schema(operation: str) -> dict[str, Any]:
    """Return the schema of a request's fields."""
    properties: dict[str, Any] = {
        name: {**field.kind.schema(), "description": field.help}
        for name, field in FIELDS.items()
        if operation in field.operations
    }
    required = ["prompt"] if operation == "generation" else ["image"]
    if operation != "generation":
        properties["image"] = _FILE
    if operation in ("edit", "selection"):
        properties["mask"] = _FILE
        required.append("prompt")
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _job_schema() -> dict[str, Any]:
    """Return the schema of a job: the fields of all three requests, and which of them it is."""
    schema = _schema("edit")
    leave = ("stream", "partial_images", "response_format")
    properties = {name: value for name, value in schema["properties"].items() if name not in leave}
    properties["operation"] = {"type": "string", "enum": ["generation", "edit", "variation"]}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _body(schema: dict[str, Any], *, files: bool) -> dict[str, Any]:
    kinds = ["application/json", *(["multipart/form-data"] if files else [])]
    return {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}


def _operation(
    summary: str,
    status: str,
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    error = {
        "description": "An error.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {status: {"description": "Success."}, "default": error},
    }
    if parameters:
        found["parameters"] = parameters
    if body:
        found["requestBody"] = body
    return found
