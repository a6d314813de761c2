"""The calculator against a model of the RMM with translation tables, which knows nothing of the chain that the calculator uses."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.calculator_files import load_vmm_profile
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.granules import granule_digests
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.rmm import RmmVersion
from kbs_rim.measurement.vmm import HostParameters, VmRequest
from kbs_rim.measurement.vmm.calculation import RealmExtras, calculate, plan_measurement, steps_of
from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS
from kbs_rim.realm.host_script import BuildOrder, HostHabits, perform
from kbs_rim.realm.rim_model import RmmGeneration
from kbs_rim.realm.vm_builder import VmDefinition, VmFiles, build_script

MIB = 1 << 20
GENERATIONS = {RmmVersion.V1_0: RmmGeneration.V1, RmmVersion.V2_0: RmmGeneration.V2}


def kernel_of(size: int, text_offset: int) -> bytes:
    header = struct.pack("<IIQQQ24x4sI", 0, 0, text_offset, 2 * MIB, 0xA, b"ARMd", 0)
    return header + b"k" * size


@st.composite
def virtual_machines(draw):
    vmm = draw(st.sampled_from(sorted(DEFAULTS)))
    rmm = draw(st.sampled_from(list(RmmVersion)))
    algorithms = [algorithm for algorithm in HashAlgorithm if algorithm is not HashAlgorithm.SHA384 or rmm is RmmVersion.V2_0]
    pmu = draw(st.booleans()) and rmm is RmmVersion.V1_0
    host = HostParameters(
        hash_algorithm=draw(st.sampled_from(algorithms)), num_bps=draw(st.integers(2, 16)), num_wps=draw(st.integers(2, 16)),
        pmu_num_ctrs=draw(st.integers(1, 8)) if pmu else 0, sve_vl=draw(st.sampled_from([0, 128, 512])),
    )  # fmt: skip
    definition = VmDefinition(
        vmm=vmm, boot="kernel", cpus=draw(st.integers(1, 4)), memory=2 * MIB * draw(st.integers(32, 4200)), host=host, pmu=pmu,
        append=draw(st.sampled_from([None, "quiet"])), measurement_log=vmm != "cloud-hypervisor" and draw(st.booleans()),
        memory_private=rmm is RmmVersion.V2_0 and draw(st.booleans()),
    )  # fmt: skip
    kernel = kernel_of(draw(st.integers(0, 20000)), draw(st.sampled_from([0, 0x80000])))
    initrd = draw(st.none() | st.binary(min_size=1, max_size=9000))
    series = draw(st.sampled_from(["", "-kvm12"])) if vmm != "cloud-hypervisor" else ""
    habits = HostHabits(
        page_size=draw(st.sampled_from([4096, 16384, 65536])), order=BuildOrder.RIPAS_LAST if series else BuildOrder.RIPAS_FIRST
    )
    return rmm, definition, VmFiles(kernel=kernel, initrd=initrd), load_vmm_profile(DEFAULTS[vmm].name + series), habits


@settings(max_examples=80, deadline=None)
@given(virtual_machines())
def test_the_rim_is_that_of_the_model(machine):
    rmm, definition, files, profile, habits = machine
    realm = perform(build_script(definition, files), GENERATIONS[rmm], habits)
    text_offset = struct.unpack_from("<Q", files.kernel, 8)[0]
    request = VmRequest(
        cpus=definition.cpus, ram_size=definition.memory, boot="kernel", host=definition.host, kernel_size=len(files.kernel),
        kernel_header=Arm64Header(text_offset, 2 * MIB, 0xA), initrd_size=None if files.initrd is None else len(files.initrd),
        bootargs=definition.append, measurement_log=definition.measurement_log, pmu=definition.pmu,
    )  # fmt: skip
    extras = RealmExtras(memory_private=definition.memory_private, host_page_size=habits.page_size)
    plan = plan_measurement(profile, request, rmm, extras=extras)
    contents = {"kernel": files.kernel, "initrd": files.initrd}
    granules = {image.thing: granule_digests(contents[image.thing], plan.algorithm, image.lead) for image in plan.images}
    whole = calculate(plan, rmm, granules)
    *_, last = steps_of(plan, rmm, granules, each=True)
    assert whole.rim == last.rim == realm.measurements.rim
    assert whole.rem == realm.measurements.rems


@pytest.mark.parametrize("vmm", sorted(DEFAULTS))
def test_a_vm_of_many_sizes_has_many_rims(vmm):
    """Nothing that the RMM measures is lost on the way: each change gives another RIM."""
    base = {"cpus": 1, "ram_size": 512 * MIB, "boot": "none", "host": HostParameters()}
    hosts = ({"num_bps": 3}, {"num_wps": 3}, {"lpa2": True}, {"sve_vl": 128}, {"hash_algorithm": HashAlgorithm.SHA512})
    changes = [{}, {"cpus": 2}, {"ram_size": 514 * MIB}, {"bootargs": "x"}, *({"host": HostParameters(**host)} for host in hosts)]
    plans = [plan_measurement(DEFAULTS[vmm], VmRequest(**base | change), RmmVersion.V1_0) for change in changes]
    assert len({calculate(plan, RmmVersion.V1_0, {}).rim for plan in plans}) == len(changes)
