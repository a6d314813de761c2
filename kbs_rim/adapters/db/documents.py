"""Documents in the database as values. They were valid when they were stored, so one that is not is our fault.

Reading one costs more than fetching it, and every release reads the same few: ``measurements_of`` and ``workload_of`` remember what a
text says. They are functions of the very text in the row, so what they remember cannot be stale, whoever writes to the database.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from kbs_rim.appraisal.workload import Workload, parse_workload
from kbs_rim.errors import StoreUnavailable, TheirFault
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.image import ImageMeasurements

_STORED_IMAGE_LIMITS = replace(
    DEFAULT_LIMITS,
    **dict.fromkeys(("image_bytes", "gunzip_bytes", "pe_sections", "pe_zero_fill_bytes", "uki_profiles", "uki_text_bytes"), 1 << 61),
)
"""Limits were applied at registration; a lower setting later must not make a stored image unreadable."""

_IMAGES_REMEMBERED = 512
_WORKLOADS_REMEMBERED = 256


def read_measurements(document: Any, parts: Any) -> ImageMeasurements:
    """Return the measurements of an image, without granule digests. Raise ``StoreUnavailable`` if they are damaged."""
    try:
        if not isinstance(document, Mapping) or not isinstance(parts, Mapping | None):
            raise StoreUnavailable("the database holds a damaged image")
        return ImageMeasurements.from_document({**document, **(parts or {})}, _STORED_IMAGE_LIMITS, partial=True)
    except TheirFault as error:
        raise StoreUnavailable("the database holds a damaged image") from error


def read_workload(document: Any, *, name: str, revision: int) -> Workload:
    """Return the workload. Raise ``StoreUnavailable`` if the document is damaged."""
    try:
        return parse_workload(document)
    except TheirFault as error:
        raise StoreUnavailable(f"the database holds a damaged workload ({name}, revision {revision})") from error


@lru_cache(_IMAGES_REMEMBERED)
def measurements_of(document: str, parts: str | None) -> ImageMeasurements:
    """Return what ``read_measurements`` does, from JSON texts."""
    return read_measurements(json.loads(document), None if parts is None else json.loads(parts))


@lru_cache(_WORKLOADS_REMEMBERED)
def workload_of(document: str, *, name: str, revision: int) -> Workload:
    """Return what ``read_workload`` does, from a JSON text."""
    return read_workload(json.loads(document), name=name, revision=revision)
