"""Bearer tokens of administrators and auditors on the internal listener."""

from aiohttp import web

from kbs_rim.errors import Forbidden
from kbs_rim.http.middleware import Handler
from kbs_rim.ports import Principal, PrincipalRole
from kbs_rim.services.principals import Principals

PRINCIPALS = web.AppKey("principals", Principals)
PRINCIPAL = web.RequestKey("principal", Principal)
_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
_MAX_TOKEN_LENGTH = 256


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who asks. Reading needs either role; everything that is not GET needs the role admin."""
    if request.path in _OPEN:
        return await handler(request)
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    principal = None
    if scheme.lower() == "bearer" and 0 < len(token) <= _MAX_TOKEN_LENGTH:
        principal = await request.app[PRINCIPALS].authenticate(token)
    if principal is None:
        raise web.HTTPUnauthorized(
            text="No live bearer token: it is missing, wrong, expired or revoked.", headers={"WWW-Authenticate": 'Bearer realm="kbs_rim"'}
        )
    if request.method not in ("GET", "HEAD") and principal.role is not PrincipalRole.ADMIN:
        raise Forbidden("access.role", f"{principal.name} is an {principal.role.value} and cannot change anything")
    request[PRINCIPAL] = principal
    return await handler(request)
