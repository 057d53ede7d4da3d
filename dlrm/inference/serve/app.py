"""The server's addresses: FastAPI's routes, described by OpenAPI, and in front of them the one that predicts.

FastAPI gives the description (``/openapi.json``) and checks what it answers by the same pydantic that reads configurations.
Predictions do not go through it: its routing and its models of a request cost several times what a single row does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, HTTPException, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from dlrm.format import did_you_mean, escaped
from dlrm.inference.serve.bodies import JSON
from dlrm.inference.serve.described import PREDICT_PATH, ModelDescription, describe, predict_operation
from dlrm.inference.serve.log import say_record
from dlrm.inference.serve.metrics import Metrics
from dlrm.inference.serve.models import Models
from dlrm.inference.serve.pages import API_PAGE, PAGE_HEADERS, TRY_PAGE
from dlrm.inference.serve.predict import Predict, Receive, Scope, Send
from dlrm.inference.serve.refusal import Cause, Refusal

_LOGGED_CHARACTERS = 300  # of a path: a line of the log must not be too long for a pipe
_BEFORE, _AFTER = "/v1/models/", "/predict"


@dataclass
class Readiness:
    """Whether the server wants requests.

    Attributes:
        problem: why not; empty if it does.
    """

    problem: str = ""


class Application:
    """What uvicorn calls for each request.

    Args:
        predict: answers rows; others: every other address.
        access_log: whether to print a line of JSON for each request.
    """

    def __init__(self, predict: Predict, others: FastAPI, *, access_log: bool) -> None:
        self._predict, self._others = predict, others
        self._answer = self._logged if access_log else self._dispatch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        try:
            await self._answer(scope, receive, send)
        except RuntimeError as error:
            if "closed" not in str(error):  # uvloop's word for a client that has left while it was answered
                raise

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith(_BEFORE) and path.endswith(_AFTER) and len(path) > len(_BEFORE + _AFTER):
                await self._predict(path[len(_BEFORE) : -len(_AFTER)], scope, receive, send)
                return
        await self._others(scope, receive, send)

    async def _logged(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s, sent = time.monotonic(), {"status": 0, "bytes": 0}

        async def counting(message: Any) -> None:
            sent["status"] = message.get("status", sent["status"])
            sent["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._dispatch(scope, receive, counting)
        finally:
            if scope["type"] == "http":
                say_record(
                    time_s=round(time.time(), 3),
                    client=(scope.get("client") or ["?"])[0],
                    method=scope["method"],
                    path=scope["path"][:_LOGGED_CHARACTERS],
                    **sent,
                    took_ms=round(1000 * (time.monotonic() - started_s), 3),
                )


def make_routes(models: Models, metrics: Metrics, readiness: Readiness) -> FastAPI:
    """Every address but that of predictions."""
    api = FastAPI(
        title="DLRM predictions",
        version=_version(),
        description="Probabilities for raw rows, by exports of trained models.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.add_exception_handler(HTTPException, _refuse)
    api.add_exception_handler(404, _refuse)
    api.add_exception_handler(405, _refuse)

    @api.get("/v1/models", summary="All models")
    async def all_models() -> list[ModelDescription]:
        return [describe(model) for model in models.values()]

    @api.get("/v1/models/{name}", summary="A model: its columns, what it predicts, what it was made of")
    async def one_model(name: str) -> ModelDescription:
        if name not in models:
            hint = did_you_mean(name, models) or f"there are {', '.join(list(models)[:8])}"
            raise HTTPException(404, {"problem": f"there is no model {escaped(name, 80)}", "hint": hint})
        return describe(models[name])

    @api.get("/healthz", summary="Whether the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/readyz", summary="Whether requests are wanted: 503 while the server ends")
    async def readyz() -> JSONResponse:
        if readiness.problem:
            return JSONResponse({"status": readiness.problem}, 503)
        return JSONResponse({"status": "ready"})

    @api.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @api.get("/", include_in_schema=False)
    async def try_page() -> HTMLResponse:
        return HTMLResponse(TRY_PAGE, headers=PAGE_HEADERS)

    @api.get("/docs", include_in_schema=False)
    async def api_page() -> HTMLResponse:
        return HTMLResponse(API_PAGE, headers=PAGE_HEADERS)

    api.openapi = _openapi(api, models)  # type: ignore[method-assign]  # FastAPI's way of extending it
    return api


def _openapi(api: FastAPI, models: Models) -> Callable[[], dict[str, Any]]:
    def described() -> dict[str, Any]:
        content = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
        # Columns may change with an export, and the example with them, so it is made anew each time.
        content["paths"][PREDICT_PATH] = {"post": predict_operation(models)}
        return content

    return described


async def _refuse(request: Request, error: Exception) -> Response:
    """Errors of FastAPI's routes in the form of all others."""
    status, detail = getattr(error, "status_code", 404), getattr(error, "detail", "")
    told = detail if isinstance(detail, dict) else {}
    address = escaped(unquote(request.url.path), 80)
    problem = told.get("problem", f"{address}: {str(detail).lower()}")
    cause: Cause = "method" if status == 405 else "not_found"
    refusal = Refusal(status, cause, problem, hint=told.get("hint", "GET /docs lists what there is"))
    return Response(refusal.body, status, headers=getattr(error, "headers", None), media_type=JSON)


def _version() -> str:
    try:
        return metadata.version("dlrm")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
