"""Host capabilities: files, restriction, and what a VM gets of them."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.calculator_files import load_host_capabilities, load_vmm_profile, shipped_hosts
from kbs_rim.errors import ConfigurationError, InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities, parse_host_capabilities
from kbs_rim.measurement.vmm.request import effective_host
from kbs_rim.measurement.vmm.shipped_profiles import CLOUD_HYPERVISOR, KVMTOOL, QEMU

some = st.builds(
    HostCapabilities,
    ipa_bits=st.none() | st.integers(32, 52),
    num_bps=st.none() | st.integers(2, 64),
    num_wps=st.none() | st.integers(2, 64),
    pmu_num_ctrs=st.none() | st.integers(0, 31),
    sve_vl=st.none() | st.integers(0, 16).map(lambda step: 128 * step),
    pmu=st.none() | st.booleans(),
    lpa2=st.none() | st.booleans(),
)


@given(some, some, some)
def test_the_order_of_restriction_does_not_matter(a, b, c):
    assert a.restricted_by(b) == b.restricted_by(a)
    assert a.restricted_by(b).restricted_by(c) == a.restricted_by(b.restricted_by(c))
    assert a.restricted_by(a) == a
    assert a.restricted_by(HostCapabilities()) == a


@given(some, some)
def test_restriction_only_lowers_and_overriding_takes_all(a, b):
    lower, other = a.restricted_by(b), a.overridden_by(b)
    for field in fields(HostCapabilities):
        values = [getattr(one, field.name) for one in (a, b)]
        known = [value for value in values if value is not None]
        assert getattr(lower, field.name) == (min(known) if known else None)
        assert getattr(other, field.name) == (values[0] if values[1] is None else values[1])


def test_the_shipped_hosts_are_those_of_the_reference():
    assert shipped_hosts() == ("fvp", "kvm", "qemu-max-8.2", "rmm-1.0-eac5")
    assert load_host_capabilities("fvp") == HostCapabilities(
        ipa_bits=52, num_bps=16, num_wps=16, pmu_num_ctrs=8, sve_vl=512, pmu=True, lpa2=True
    )
    assert load_host_capabilities("qemu-max-8.2") == HostCapabilities(
        ipa_bits=52, num_bps=6, num_wps=4, pmu_num_ctrs=6, sve_vl=2048, pmu=True, lpa2=True
    )
    assert load_host_capabilities("kvm") == HostCapabilities(lpa2=False)
    assert load_host_capabilities("rmm-1.0-eac5") == HostCapabilities(num_bps=2, num_wps=2, lpa2=False)


@pytest.mark.parametrize("name", ["sha256", "sha-256", "RmiHashSha256"])
def test_hash_names(name):
    assert parse_host_capabilities({"hash_algo": name}).hash_algorithm is HashAlgorithm.SHA256


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({"num_bp": 4}, "num_bp: is not a key"),
        ({"num_bps": 1}, "num_bps"),
        ({"num_bps": "4"}, "num_bps"),
        ({"num_wps": True}, "num_wps"),
        ({"ipa_bits": 60}, "ipa_bits"),
        ({"sve_vl": 200}, "sve_vl"),
        ({"sve_vl": -128}, "sve_vl"),
        ({"pmu_num_ctrs": 32}, "pmu_num_ctrs"),
        ({"pmu": 1}, "pmu"),
        ({"lpa2": "yes"}, "lpa2"),
        ({"hash_algo": "md5"}, "hash_algo"),
        ({"hash_algo": 1}, "hash_algo"),
    ],
)
def test_a_wrong_key_is_named(document, word):
    with pytest.raises(InvalidDocument, match=word) as refused:
        parse_host_capabilities(document)
    assert refused.value.finding_id == "document.host"


def test_parts_of_one_host_are_joined_and_the_lower_value_counts(tmp_path: Path):
    assert load_host_capabilities("fvp+kvm") == load_host_capabilities("fvp").restricted_by(load_host_capabilities("kvm"))
    assert load_host_capabilities("rmm-1.0-eac5+fvp").num_bps == 2
    odd = tmp_path / "a+b"
    odd.write_text("num_bps = 3\n")
    assert load_host_capabilities(str(odd)).num_bps == 3
    with pytest.raises(ConfigurationError, match="none is neither"):
        load_host_capabilities("fvp+none")


def test_files_of_ones_own(tmp_path: Path):
    good, bad = tmp_path / "fvp", tmp_path / "bad.toml"
    good.write_text("num_bps = 3\n")
    bad.write_text("num_bps =\n")
    assert load_host_capabilities(str(good)).num_bps == 3
    with pytest.raises(ConfigurationError, match="not TOML"):
        load_host_capabilities(str(bad))
    with pytest.raises(ConfigurationError, match="fvp, kvm"):
        load_host_capabilities(str(tmp_path / "none"))
    bad.write_text("#" * 300_000)
    with pytest.raises(ConfigurationError, match="larger"):
        load_host_capabilities(str(bad))


def test_every_shipped_file_is_plain():
    folder = Path(__file__).parents[2] / "config" / "host_capabilities"
    for file in folder.glob("*.toml"):
        assert all(not isinstance(value, dict | list) for value in tomllib.loads(file.read_text()).values())


FVP = HostCapabilities(ipa_bits=52, num_bps=16, num_wps=16, pmu_num_ctrs=8, sve_vl=512, pmu=True, lpa2=True)


def qemu(host: HostCapabilities, *arguments: str):
    return effective_host(parse_arguments("qemu", arguments), host, QEMU)


@pytest.mark.parametrize(
    ("cpu", "known", "sve_vl"),
    [
        ("host", 512, 512),
        ("host", None, None),
        ("host,sve=off", 512, 0),
        ("host,sve=off", None, 0),
        ("host,sve512=off", 512, 256),
        ("host,sve256=off", 512, 128),
        ("host,sve1024=off", 512, 512),
        ("host,sve1024=on", 512, 512),
        ("host,sve1024=on", None, 1024),
        ("host,sve512=off,sve512=on", 512, 512),
        ("host,sve=on", 512, 512),
        ("host,sve512=auto", 512, 512),
    ],
)
def test_sve_switches(cpu, known, sve_vl):
    assert qemu(HostCapabilities(sve_vl=known), "-cpu", cpu).capabilities.sve_vl == sve_vl


@pytest.mark.parametrize(
    ("given", "cpu", "pmu"),
    [
        (None, "host", False),
        (True, "host", True),
        (None, "host,pmu=on", True),
        (False, "host,pmu=on", False),
        (True, "host,pmu=off", False),
        (True, "host,pmu=auto", True),
    ],
)
def test_who_decides_about_the_pmu(given, cpu, pmu):
    host = qemu(HostCapabilities(pmu=given), "-cpu", cpu)
    assert host.pmu is pmu
    assert bool(host.remarks) == (given is False)


def test_a_kvmtool_pmu_is_there_only_if_asked_for():
    base = ("-c", "1", "-m", "64M")
    assert not effective_host(parse_arguments("kvmtool", base), FVP, KVMTOOL).pmu
    assert effective_host(parse_arguments("kvmtool", [*base, "--pmu"]), FVP, KVMTOOL).pmu


@pytest.mark.parametrize(
    ("more", "sve_vl", "pmu"),
    [([], 0, False), (["--pmu"], 0, False), (["--pmu-counters", "3"], 0, True), (["--sve-max-vl", "256"], 256, False)],
)
def test_an_older_kvmtool_has_what_is_asked_for(more, sve_vl, pmu):
    host = effective_host(parse_arguments("kvmtool", ["-c", "1", "-m", "64M", *more]), FVP, load_vmm_profile("kvmtool-eac5"))
    assert (host.capabilities.sve_vl, host.pmu) == (sve_vl, pmu)


def test_who_chooses_the_hash():
    host = HostCapabilities(hash_algorithm=HashAlgorithm.SHA384)
    assert qemu(HostCapabilities()).hash_algorithm is HashAlgorithm.SHA512
    assert qemu(host).hash_algorithm is HashAlgorithm.SHA384
    assert qemu(host, "-object", "rme-guest,measurement-algorithm=sha256").hash_algorithm is HashAlgorithm.SHA256
    definition = parse_arguments("cloud-hypervisor", [])
    assert effective_host(definition, HostCapabilities(), CLOUD_HYPERVISOR).hash_algorithm is HashAlgorithm.SHA512


def test_the_vmm_lowers_and_never_raises():
    host = qemu(FVP, "-cpu", "host,num-breakpoints=4,num-watchpoints=20,num-pmu-counters=31")
    assert (host.capabilities.num_bps, host.capabilities.num_wps, host.capabilities.pmu_num_ctrs) == (4, 16, 8)
    assert [remark.split(":")[0] for remark in host.remarks] == ["num_wps", "pmu_num_ctrs"]
