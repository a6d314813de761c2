"""PURE. What VMMs do: where they put images, which device tree they load, which realm they ask the RMM for.

``arguments.parse_arguments`` reads a command line, ``request.request_of`` joins it with a host and with images, ``plan_layout`` places
everything and makes the device tree, ``operations.plan_operations`` lists what the RMM is asked to do, ``calculation.calculate`` gives
RIM and REMs. An appraisal never trusts a layout: it judges what the log and the RIM say.
"""

from kbs_rim.measurement.vmm.definition import VMMS, Vmm
from kbs_rim.measurement.vmm.layout import plan_layout
from kbs_rim.measurement.vmm.profile import Boot, HostParameters, Placement, Region, VmLayout, VmRequest

__all__ = ["VMMS", "Boot", "HostParameters", "Placement", "Region", "VmLayout", "VmRequest", "Vmm", "plan_layout"]
