"""What the service says of itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from pellucid.serve.errors import Json, ServiceError
from pellucid.serve.service import Service
from pellucid.serve.writing import service_of

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    """Whether the process lives."""
    return Json({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Whether requests are answered: not before the model is warm, nor while it cannot be run or the service ends."""
    if not service_of(request).is_ready:
        worker = service_of(request).worker
        raise ServiceError(503, worker.failure or "not ready", code="not_ready", retry_after=1)
    return Json({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(service_of(request).metrics.page(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The one model."""
    return Json({"object": "list", "data": [_described(service_of(request))]})


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> Response:
    """The model of a name."""
    service = service_of(request)
    service.check_name(name)
    return Json(_described(service))


def _described(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "pellucid",
        "family": type(service.loaded.model).__name__,
        "answers": list(service.answers),
        "max_length": None if service.writer is None else service.writer.limit,
    }
