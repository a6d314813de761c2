"""Media types as HTTP writes them (RFC 9110 section 8.3.1), read strictly enough to compare them.

One liberty: a parameter value may stand without quotes although it has ``:`` or ``/`` in it, because keybroker-demo's
server offers ``profile=http://arm.com/CCA-SSD/1.0.0`` and a client may send back what it was offered.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(r"""[ \t]*;[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[\t !#-\[\]-~]|\\[ -~])*)"|([!#-+\--:<-~]+))""")


@dataclass(frozen=True, slots=True)
class MediaType:
    """``name`` is type and subtype in lower case; ``parameters`` has lower-case names and values as given, unquoted."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def parse_media_type(text: str, limits: Limits = DEFAULT_LIMITS) -> MediaType:
    """Read a media type with its parameters. Raises ``MalformedEvidence("envelope.media-type")``."""
    if len(text) > limits.media_type_bytes:
        raise MalformedEvidence(
            "envelope.media-type", "the media type is too long", expected=f"at most {limits.media_type_bytes} characters"
        )
    name = _NAME.match(text)
    if name is None:
        raise MalformedEvidence("envelope.media-type", "the media type is malformed")
    parameters: dict[str, str] = {}
    position = name.end()
    while position < len(text):
        parameter = _PARAMETER.match(text, position)
        if parameter is None:
            raise MalformedEvidence("envelope.media-type", "a parameter of the media type is malformed")
        key, quoted, plain = parameter.groups()
        if key.lower() in parameters:
            raise MalformedEvidence("envelope.media-type", "a parameter of the media type stands twice")
        parameters[key.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = parameter.end()
    return MediaType(name.group().lower(), MappingProxyType(parameters))
