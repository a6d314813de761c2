"""PURE. What VMMs do: where they put images, which device tree they load, which realm they ask the RMM for.

``plan_layout`` is for calculators and simulators. An appraisal never trusts it: it judges what the log and the RIM say.
"""

from typing import Literal

from kbs_rim.measurement.vmm import kvmtool, qemu
from kbs_rim.measurement.vmm.profile import Boot, HostParameters, Placement, Region, VmLayout, VmRequest

__all__ = ["Boot", "HostParameters", "Placement", "Region", "VmLayout", "VmRequest", "Vmm", "plan_layout"]

Vmm = Literal["qemu", "kvmtool"]
_PLANS = {"qemu": qemu.plan, "kvmtool": kvmtool.plan}


def plan_layout(vmm: Vmm, request: VmRequest) -> VmLayout:
    """Return what ``vmm`` makes of ``request``: placement, device tree, realm parameters, entry state.

    Raises ``InvalidDocument`` (``document.vm``) for a VM that it could not run.
    """
    return _PLANS[vmm](request)
