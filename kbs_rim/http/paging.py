"""Listings: a limit, a cursor, and the cursor of the next page."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

DEFAULT_LIMIT, MAX_LIMIT = 50, 500


def page_limit(request: web.Request) -> int:
    """Return the page size that the query asks for; raise 400 if it is not a number from 1 to 500."""
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= MAX_LIMIT:
        raise web.HTTPBadRequest(text=f"limit must be a number from 1 to {MAX_LIMIT}.")
    return int(text)


def page_of(member: str, items: list[dict[str, Any]], limit: int, cursor: Callable[[dict[str, Any]], Any]) -> web.Response:
    """Return a page; ``next`` is the cursor of the following one, or null after the last."""
    following = cursor(items[-1]) if len(items) == limit else None
    return web.json_response({member: items, "next": following})
