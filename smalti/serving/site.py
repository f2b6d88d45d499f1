"""What is not drawing: health, metrics, models, what a page needs to know, and the files of the studio."""

from __future__ import annotations

import mimetypes
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from smalti.components import Components
from smalti.generation.settings import PRESETS
from smalti.serving.fields import FIELDS, SETTINGS
from smalti.serving.openapi import document
from smalti.serving.pictures import FORMATS
from smalti.serving.service import Service

STUDIO = Path(__file__).parent / "studio"
"""Folder of the web studio's files."""

EXAMPLES = (
    "a tiger",
    "four strawberries",
    "a green pear left of a blue car",
    "a hamburger above a pizza",
    "a red circle left of a blue square",
    "three yellow stars",
    "a green heart above a black ring",
    "a purple arrow and an orange diamond",
)
"""Prompts for models of things and for models of shapes; each model shows those that it knows the words of."""

_MOST_EXAMPLES = 4

_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}


class StudioRoute(Route):
    """The route of the studio's files, which matches their names and nothing else."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return how a request matches: an unknown name is nobody's, whatever its method."""
        match, child = super().matches(scope)
        known = match != Match.NONE and child["path_params"].get("path", "index.html") in studio_files()
        return (match, child) if known else (Match.NONE, {})


@cache
def studio_files() -> dict[str, Path]:
    """Return the studio's files by the name in their address, which is never joined with what a client wrote."""
    return {path.relative_to(STUDIO).as_posix(): path for path in STUDIO.rglob("*") if path.is_file()}


class Site:
    """The endpoints of the site.

    Args:
        open: whether no key is needed.
    """

    def __init__(self, service: Service, *, open: bool) -> None:
        self._service, self._open = service, open

    async def health(self, request: Request) -> Response:
        """Answer GET /health: the process answers."""
        return JSONResponse({"status": "ok", "version": self._service.version})

    async def ready(self, request: Request) -> Response:
        """Answer GET /ready: 503 while models warm up, while the queue is full, and while the server shuts down."""
        engine = self._service.engine
        state = "ready"
        if engine.queue.closed:
            state = "shutting_down"
        elif not engine.ready:
            state = "warming_up"
        elif engine.queue.full:
            state = "queue_full"
        return JSONResponse({"status": state, "waiting": len(engine.queue)}, 200 if state == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """Answer GET /metrics in Prometheus' format."""
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        """Answer GET /v1/models."""
        return JSONResponse(self._service.models.listing())

    async def model(self, request: Request) -> Response:
        """Answer GET /v1/models/{id}."""
        return JSONResponse(self._service.models.describe(request.path_params["id"]))

    async def openapi(self, request: Request) -> Response:
        """Answer GET /openapi.json."""
        return JSONResponse(document(self._service.version))

    async def info(self, request: Request) -> Response:
        """Answer GET /api/info: what a page needs to know of models, fields and limits."""
        return JSONResponse(info(self._service, self._open))

    async def studio(self, request: Request) -> Response:
        """Answer GET / and the files below it."""
        path = studio_files()[request.path_params.get("path", "index.html")]
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return Response(path.read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})


def info(service: Service, open: bool) -> dict[str, Any]:
    """Return what a page needs to know."""
    limits = service.limits
    return {
        "version": service.version,
        "needs_key": not open,
        "models": [_model(service, name) for name in service.models.names],
        "presets": dict(PRESETS),
        "fields": {
            name: {"help": field.help, "schema": field.kind.schema(), "operations": sorted(field.operations)}
            for name, field in FIELDS.items()
            if not field.idle
        },
        "settings": list(SETTINGS),
        "ignored": sorted(name for name, field in FIELDS.items() if field.idle),
        "formats": [name.lower() for name in FORMATS],
        "limits": {
            "body_bytes": limits.body_bytes,
            "image_pixels": limits.image_pixels,
            "image_side": limits.image_side,
            "output_pixels": limits.output_pixels,
            "prompt_letters": limits.prompt_letters,
            "images": limits.images,
            "waiting": limits.waiting,
            "waiting_per_client": limits.waiting_per_client,
        },
    }


def _model(service: Service, name: str) -> dict[str, Any]:
    _, pipe = service.models.find(name)
    components = pipe.components
    height, width = pipe.settings.size
    return {
        "id": name,
        "size": [width, height],
        "unit": components.image_tokenizer.config.downscale * components.denoiser.config.cell,
        "token_pixels": components.image_tokenizer.config.downscale,
        "block_tokens": components.denoiser.config.cell,
        "settings": pipe.settings.to_dict(),
        "presets": {preset: pipe.preset(preset).to_dict() for preset in PRESETS},
        "examples": examples(components),
    }


def examples(components: Components) -> list[str]:
    """Return some prompts to begin with: those whose words the model has seen in training, where these are known."""
    return [prompt for prompt in EXAMPLES if not components.unknown_words([prompt])][:_MOST_EXAMPLES]
