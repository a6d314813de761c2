"""Realms whose host writes no log, end to end over sockets, with a client that sends its token and nothing else."""

import base64
from base64 import urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from kbs_rim.evidence.envelope import EAT_COLLECTION_TYPE
from kbs_rim.realm.lies import Lie
from tests.broker_stage import SECRETS, VMS, Site, expect, register_image
from tests.http.test_guest_honest_path import OldClient
from tests.stage import ROLES, judging_trees

VM, NAME = "qemu-kernel", "logless"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


def document(**changes) -> dict:
    vm = VMS[VM]
    base, size = vm.script.ram
    definition = {
        "vmm": "qemu",
        "without_log": True,
        "cpus": [1, 2, 4],
        "ram": [2 * size, size],
        "bootargs": ["console=ttyAMA0"],
        "breakpoints": [2],
        "watchpoints": [2],
        "sve_vector_bits": ["off", 2048],
        "measurement_log": "either",
    }
    plain = {**vm.workload_document(NAME), "memory": {"base": base, "size": {"min": size, "max": 2 * size}}}
    return {**judging_trees(vm, plain), "definition": {**definition, **changes}}


async def furnish(site: Site, **changes) -> None:
    """Kernel and initrd are registered, and the device tree is not."""
    for load in VMS[VM].script.loads:
        if load.name != "DTB":
            await register_image(site, bytes(load.data), ROLES[load.name].value)
    await expect(site, 201, "POST", "/admin/v1/workloads", document(**changes))
    value = base64.urlsafe_b64encode(SECRETS[VM]).rstrip(b"=").decode()
    await expect(
        site, 201, "POST", "/admin/v1/secrets", {"path": f"vault/disk/{NAME}", "key_id": NAME, "workloads": [NAME], "value": value}
    )


async def ask(site: Site, client: OldClient, **simulated):
    answer = await client.request(site, NAME)
    assert answer.status == 201, answer
    challenge = base64.urlsafe_b64decode(answer.document["challenge"] + "==")
    token = urlsafe_b64encode(site.realm(VM, **simulated).token(challenge)).rstrip(b"=")
    return await site.call(
        "POST",
        site.guest_url() + answer.headers["Location"][answer.headers["Location"].index("/keys/") :],
        data=token,
        headers={"Content-Type": EAT_COLLECTION_TYPE},
    )


async def test_an_old_client_gets_its_secret_without_any_log(site: Site) -> None:
    await furnish(site)
    client = OldClient("RSA-OAEP")
    for remembered in (False, True, True):
        answer = await ask(site, client)
        assert answer.status == 200, answer
        assert client.open(answer.document["data"], OAEP) == SECRETS[VM]
        [record] = await site.appraisals(limit=1)
        facts = (await site.record(record["id"]))["appraisal"]["facts"]
        assert facts["definition"]["vms"] == 24
        assert facts["definition"]["remembered"] is remembered
        assert facts["definition"]["vm"]["cpus"] == 2
        assert facts["vmm"] == "QEMU"


async def test_attack_the_log_is_left_out_where_the_workload_wants_one(site: Site) -> None:
    await furnish(site, without_log=False)
    await site.assert_refused(await ask(site, OldClient("RSA-OAEP")), "log.missing", code="log-refused")


async def test_attack_an_image_revoked_between_two_boots_without_a_log(site: Site) -> None:
    await furnish(site)
    client = OldClient("RSA-OAEP")
    assert (await ask(site, client)).status == 200
    kernel = next(rule for rule in document()["images"] if rule["role"] == "kernel")["images"][0]
    await expect(site, 200, "POST", f"/admin/v1/images/{kernel}/state", {"state": "revoked", "reason": "CVE"})
    answer = await ask(site, client)
    assert answer.status == 403, answer
    [record] = await site.appraisals(limit=1)
    findings = {finding["id"] for finding in (await site.record(record["id"]))["appraisal"]["findings"]}
    assert {"rim.image-revoked", "rim.no-candidate"} <= findings


async def test_attack_the_log_is_left_out_to_load_a_revoked_device_tree(site: Site) -> None:
    """A log names the tree, so that its state is looked up; one that is made from the definition is named by nobody."""
    await furnish(site)
    client = OldClient("RSA-OAEP")
    [load] = [load for load in VMS[VM].script.loads if load.name == "DTB"]
    tree = await register_image(site, bytes(load.data), "device-tree")
    assert (await ask(site, client)).status == 200
    await expect(site, 200, "POST", f"/admin/v1/images/{tree}/state", {"state": "revoked", "reason": "CVE"})
    answer = await ask(site, client)
    assert (answer.status, answer.document["type"].rpartition(":")[2]) == (403, "measurement-refused"), answer
    [record] = await site.appraisals(limit=1)
    findings = {finding["id"] for finding in (await site.record(record["id"]))["appraisal"]["findings"]}
    assert "rim.image-revoked" in findings
    assert "policy.accepted" not in findings


@pytest.mark.parametrize("lie", ["tampered-kernel", "unmeasured-initrd"])
async def test_attack_a_realm_that_the_definition_does_not_describe(site: Site, lie: str) -> None:
    await furnish(site)
    await site.assert_refused(await ask(site, OldClient("RSA-OAEP"), lie=Lie(lie)), "rim.no-candidate", code="measurement-refused")
