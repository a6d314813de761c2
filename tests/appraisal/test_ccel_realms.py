"""Real CCELs of confidential guests as those of realms: they replay, and all that stays unknown is what only their makers could know."""

from dataclasses import dataclass, replace

import pytest
from measured_boot import LOGS, RuntimeStage, read
from stage import INITRD, KERNEL, Stage, Vm, error_ids

from kbs_rim.evidence.event_digest import DigestKind, rederive
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.vmm.profile import HostParameters
from kbs_rim.realm.vm_builder import VmDefinition, VmFiles

SHA384 = HashAlgorithm.SHA384
NAMES = [path.name for path in sorted((LOGS / "ccel").iterdir()) if "table" not in path.name and path.name != "CCEL_data_csv"]
OPEN_TABLE = {
    "logs": [{"kind": "cc"}],
    "boot_variables": "any",
    "partition_tables": "any",
    "secure_boot": {"authorities": "any"},
    "firmware_versions": ["*", "* * *"],
}


@dataclass(frozen=True)
class Sha384Vm(Vm):
    """A realm that measures with the algorithm of TDX."""

    @property
    def definition(self) -> VmDefinition:
        return replace(super().definition, host=HostParameters(hash_algorithm=SHA384))


def stage_of(name: str, **changes) -> RuntimeStage:
    vm = Sha384Vm("qemu", "kernel", VmFiles(kernel=KERNEL, initrd=INITRD))
    data = (LOGS / "ccel" / name).read_bytes()
    return RuntimeStage({**OPEN_TABLE, **changes}, [("cc", data)], rems=["log"] * 4, stage=Stage(vm=vm), algorithm=SHA384)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_ccel_is_replayed_and_its_unknowns_are_named(name):
    verdict = stage_of(name).judge()
    assert error_ids(verdict) <= {"rem.event-unknown", "rem.event-refused", "rem.command-line"}
    log = read("cc", (LOGS / "ccel" / name).read_bytes())
    said = {finding.where["event"]: finding for finding in verdict.findings if finding.id.startswith("rem.event")}
    for event in log.events:
        if not event.measured:
            continue
        found = rederive(event, SHA384)
        if found.kind is DigestKind.EXTERNAL:
            assert said[event.number].id == "rem.event-unknown", (event, found)
            assert found.what in said[event.number].message
        elif event.number in said:
            assert said[event.number].id in ("rem.event-refused", "rem.event-unknown", "rem.command-line"), (event, found)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_ccel_is_let_in_by_what_was_learnt_of_it(name):
    """Every refused digest named: the escape hatch reaches everything there is."""
    stage = stage_of(name)
    refused = [finding for finding in stage.judge().findings if finding.severity.value == "error"]
    digests = [{"rem": item.where["rem"], "digest": item.where["digest"], "type": item.where["type"], "required": True} for item in refused]
    stage.table = {**stage.table, "digests": digests}
    assert error_ids(stage.judge()) == set()


def test_attack_ccel_of_another_algorithm_than_the_realms():
    """Hygon's log has SM3 only; no realm measures with that."""
    stage = stage_of(NAMES[0])
    stage.sent = [("cc", (LOGS / "ccel" / "CCEL_data_csv").read_bytes())]
    assert error_ids(stage.judge()) == {"rem.algorithm", "rem.not-judged"}


@pytest.mark.parametrize("name", NAMES)
def test_attack_ccel_read_under_pcr_numbering(name):
    """Registers 1 and 2 are PCRs of the same REMs, 3 and 4 are not: a log of these replays to other registers."""
    data = (LOGS / "ccel" / name).read_bytes()
    stage = stage_of(name, logs=[{"kind": "tpm", "pcr_mapping": "uefi"}])
    stage.sent = [("tpm", data)]
    beyond = any(event.measured and event.register > 2 for event in read("cc", data).events)
    assert ({"rem.replay", "rem.not-judged"} <= error_ids(stage.judge())) == beyond
    stage.table = {**stage.table, "logs": [{"kind": "cc"}]}
    assert error_ids(stage.judge()) == {"rem.log-missing", "rem.not-judged"}


def test_agents_events_behind_the_firmwares():
    """The one public log with both: the agent's two lines stand in measurement register 4."""
    nested = '{"key": "value", "nested-key": {"sub-key": "*"}}'
    stage = stage_of("CCEL_AAEL_alibabacloud")
    refused = {finding.where["rem"] for finding in stage.judge().findings if finding.id == "rem.event-refused"}
    assert 3 in refused
    rules = [{"domain": "coco.com", "operation": "some-*", "content": content} for content in ("some-content", nested)]
    for chosen, still in ((rules, False), (rules[:1], True)):
        stage.table = {**stage.table, "aael": chosen}
        assert (3 in {finding.where.get("rem") for finding in stage.judge().findings if finding.severity.value == "error"}) == still
