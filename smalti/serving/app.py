"""The ASGI application: routes and what stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.concurrency import run_in_threadpool
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Scope

from smalti.serving.accepting import Acceptor
from smalti.serving.answers import Answers
from smalti.serving.gate import Access, Gate
from smalti.serving.images_api import ImagesApi
from smalti.serving.jobs_api import JobsApi
from smalti.serving.service import Service
from smalti.serving.site import Site, StudioRoute


def make_app(service: Service, access: Access) -> ASGIApp:
    """Return the application of a service.

    Args:
        access: who may ask.
    """
    acceptor = Acceptor(service)
    site = Site(service, open=not access.keys)
    routes = _routes(ImagesApi(service, acceptor), JobsApi(service, acceptor), site)

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        service.start()
        yield
        await run_in_threadpool(service.stop)

    def route_of(scope: Scope) -> str:
        for route in routes:
            if route.matches(scope)[0] != Match.NONE:
                return route.path
        return "other"

    # Starlette's own application would answer faults itself, in a shape that clients do not read.
    inner = Router(routes, redirect_slashes=False, lifespan=lifespan)
    return Answers(Gate(inner, access, service.limits), service.metrics, route_of)


def _routes(images: ImagesApi, jobs: JobsApi, site: Site) -> list[Route]:
    """Return the routes; the files of the studio come last, below everything else."""
    return [
        Route("/v1/images/generations", images.generations, methods=["POST"]),
        Route("/v1/images/edits", images.edits, methods=["POST"]),
        Route("/v1/images/variations", images.variations, methods=["POST"]),
        Route("/v1/models", site.models, methods=["GET"]),
        Route("/v1/models/{id:path}", site.model, methods=["GET"]),
        Route("/api/info", site.info, methods=["GET"]),
        Route("/api/jobs", jobs.create, methods=["POST"]),
        Route("/api/jobs", jobs.index, methods=["GET"]),
        Route("/api/jobs/{id}", jobs.show, methods=["GET"]),
        Route("/api/jobs/{id}", jobs.delete, methods=["DELETE"]),
        Route("/api/jobs/{id}/events", jobs.events, methods=["GET"]),
        Route("/api/jobs/{id}/cancel", jobs.cancel, methods=["POST"]),
        Route("/api/results", jobs.results, methods=["GET"]),
        Route("/api/results/{id}", jobs.result, methods=["GET"]),
        Route("/api/results/{id}", jobs.delete_result, methods=["DELETE"]),
        Route("/api/results/{id}/content", jobs.content, methods=["GET"]),
        Route("/api/results/{id}/thumbnail", jobs.thumbnail, methods=["GET"]),
        Route("/api/selections", jobs.select, methods=["POST"]),
        Route("/api/selections/{id}", jobs.selection, methods=["GET"]),
        Route("/health", site.health, methods=["GET"]),
        Route("/ready", site.ready, methods=["GET"]),
        Route("/metrics", site.metrics, methods=["GET"]),
        Route("/openapi.json", site.openapi, methods=["GET"]),
        StudioRoute("/", site.studio, methods=["GET"]),
        StudioRoute("/{path:path}", site.studio, methods=["GET"]),
    ]
