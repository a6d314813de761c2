"""All targets by name, in the order in which they are fuzzed."""

from collections.abc import Mapping
from types import MappingProxyType

from tests.fuzz.examination import Target
from tests.fuzz.targets import (
    codecs,
    documents,
    event_logs,
    images,
    keys,
    logs,
    runtime,
    sources,
    tokens,
    trees,
    vm_definitions,
    vmm_arguments,
)

_ROOMS = (codecs, tokens, logs, event_logs, runtime, trees, images, sources, keys, documents, vmm_arguments, vm_definitions)
TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for room in _ROOMS for target in room.TARGETS})
