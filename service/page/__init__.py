"""GET /: a small page to try the model. No build step, and nothing from elsewhere."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

HERE = Path(__file__).parent
HTML, CSS, SCRIPT = "text/html", "text/css", "text/javascript"
CONTENT_TYPES = {
    "index.html": HTML,
    "colours.css": CSS,
    "style.css": CSS,
    "cards.css": CSS,
    "layout.css": CSS,
    "icon.svg": "image/svg+xml",
    "main.js": SCRIPT,
    "api.js": SCRIPT,
    "curl.js": SCRIPT,
    "fields.js": SCRIPT,
    "result.js": SCRIPT,
    "state.js": SCRIPT,
    "strings.js": SCRIPT,
}
# The page shows model text and may hold an API key: nothing but our own files may be loaded or run.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def page_router() -> APIRouter:
    """GET / and the files that it names, under /page/."""
    router = APIRouter(include_in_schema=False)
    for name, media_type in CONTENT_TYPES.items():
        path = "/" if name == "index.html" else f"/page/{name}"
        router.add_api_route(path, _file(name, media_type))
    return router


def _file(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = (HERE / name).read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers=HEADERS)

    return answer
