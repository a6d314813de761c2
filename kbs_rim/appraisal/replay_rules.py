"""Which replays may match under a workload: dialects, and the realm parameters that a log may stand for."""

from dataclasses import replace

from kbs_rim.appraisal.workload import Bounds, ParameterRules, Workload
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.replay import params_to_try
from kbs_rim.measurement.rmm import RealmCreate, RealmFlags

_COUNTS = range(2, 65)
"""Numbers of breakpoints and watchpoints that an RMM accepts."""


def parameters_to_try(logged: RealmCreate, rules: ParameterRules) -> tuple[RealmCreate, ...]:
    """Return the realm parameters that a log may stand for under a workload, as logged first; at most eight.

    No VMM logs LPA2, which the host's kernel sets by itself, and kvmtool logs fixed numbers of breakpoints and watchpoints whatever the
    host has. Where a workload allows LPA2, or names exact numbers, those are tried too; what matched is judged, not what was logged.
    """
    known = params_to_try(logged)
    known += tuple(
        replace(params, num_bps=_encoded(rules.breakpoints, params.num_bps), num_wps=_encoded(rules.watchpoints, params.num_wps))
        for params in known
    )
    if rules.lpa2:
        known += tuple(replace(params, flags=params.flags | RealmFlags.LPA2) for params in known)
    return tuple(dict.fromkeys(known))


def _encoded(count: Bounds, logged: int) -> int:
    """Return the RMI field (the number minus one) for the only number that is allowed, or the logged field if there are several."""
    return count.min - 1 if count.exact and count.min in _COUNTS else logged


def allowed_dialects(workload: Workload) -> tuple[Dialect, ...]:
    """Return the dialects to try for a workload, likeliest first: RMM version, then order, then rounding."""
    rules = workload.rmm
    return tuple(Dialect(rmm, rounding, order) for rounding in rules.roundings for order in rules.orders for rmm in rules.versions)
