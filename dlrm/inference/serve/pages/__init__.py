"""Two pages for people: ``/``, a form that asks for a prediction, and ``/docs``, what OpenAPI says as text.

Each is one file that asks for nothing from anywhere else, so that it works on a host without a network. (FastAPI's own
pages load JavaScript of others from a CDN.) What is shown of a model or an answer is set as text, never as HTML.
"""

from __future__ import annotations

from pathlib import Path

PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_FOLDER = Path(__file__).parent


def _page(name: str) -> str:
    style = (_FOLDER / "style.css").read_text()
    return (_FOLDER / name).read_text().replace("/* style.css */", style)


TRY_PAGE = _page("try.html")
API_PAGE = _page("api.html")
