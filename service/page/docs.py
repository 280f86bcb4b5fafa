"""GET /docs: the OpenAPI document as a page, which loads nothing from elsewhere.

Swagger UI's files come with vLLM, so that they need no package of their own.
"""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

from service.errors import NotFoundError

STATIC = "entrypoints/serve/instrumentator/static"  # in vLLM's package, which is not imported
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>mergeline: the HTTP API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/show.js"></script>
</body>
</html>
"""
SHOW = """SwaggerUIBundle({
  urls: [
    { name: "mergeline", url: "openapi.json" },
    { name: "OpenAI (/v1)", url: "v1/openapi.json" },
  ],
  dom_id: "#swagger-ui",
  validatorUrl: null,
});
"""
# Swagger UI sets styles of its elements itself.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
}


def docs_router() -> APIRouter:
    """GET /docs and the files that it names."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> Response:
        return Response(HTML, media_type="text/html; charset=utf-8", headers=HEADERS)

    @router.get("/docs/{name}")
    async def file(name: str) -> Response:
        if name == "show.js":
            return Response(SHOW, media_type="text/javascript")
        if name not in FILES:
            raise NotFoundError(f"there is no /docs/{name}")
        return Response(_content(name), media_type=FILES[name])

    return router


def _content(name: str) -> bytes:
    vllm = find_spec("vllm")
    if vllm is None or vllm.origin is None:
        raise NotFoundError("Swagger UI comes with vLLM, which is not installed: GET /openapi.json")
    return (Path(vllm.origin).parent / STATIC / name).read_bytes()
