"""Administration over HTTP: who may do what, what is validated, and that no route returns a secret's value."""

import base64
import json
from datetime import timedelta
from inspect import signature

from stage import INITRD, QEMU_KERNEL

from kbs_rim import wiring
from kbs_rim.http.app import internal_app
from kbs_rim.limits import Limits
from kbs_rim.measurement.image import measure_image
from kbs_rim.ports import PrincipalRole
from kbs_rim.services.principals import TOKEN_PREFIX, Principals
from tests.broker_stage import SECRETS, Site, assert_no_secret, expect, register_image

VM = "qemu-kernel"
SECRET = f"/admin/v1/secrets/vault/disk/{VM}"
UNKNOWN_IMAGE = "sha256:" + "0" * 64


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def image(data: bytes = b"another initrd" * 100, **changes) -> dict:
    return {"name": "debian-initrd 12", "roles": ["initrd"], "measurements": measure_image(data).to_document(), **changes}


def secret(**changes) -> dict:
    return {"path": "vault/tls/web", "key_id": "web-tls", "workloads": [VM], "value": b64(b"a TLS key"), **changes}


async def every_route(site: Site) -> list[tuple[str, str]]:
    """Method and path of every route of the internal listener, with names that exist filled in."""
    images = (await site.get("/admin/v1/images"))["images"]
    await site.fetch()
    [record] = await site.appraisals(limit=1)
    names = {
        "id": images[0]["id"],
        "name": VM,
        "secret": f"vault/disk/{VM}",
        "version": "1",
        "ticket": record["id"],
        "sha256": record["inputs"]["token"],
    }
    app = internal_app(**{**dict.fromkeys(signature(internal_app).parameters), "limits": Limits()})
    found = []
    for route in app.router.routes():
        canonical = route.resource.canonical
        for name, value in names.items():
            canonical = canonical.replace("{" + name + "}", value)
        assert "{" not in canonical, f"a route has a part that this test does not know: {canonical}"
        found.append((route.method, canonical))
    assert len(found) > 25
    return found


# --- who --------------------------------------------------------------------------------------------------------------


async def test_nobody_without_a_live_token_gets_anything_but_health(site: Site) -> None:
    for method, path in await every_route(site):
        answer = await site.ask(method, path, who=None)
        if path in ("/healthz", "/readyz", "/metrics"):
            assert answer.status == 200
            continue
        assert answer.status == 401, (method, path)
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="kbs_rim"'


async def test_an_auditor_reads_everything_and_changes_nothing(site: Site) -> None:
    before = await site.store.images.registry_sequence()
    for method, path in await every_route(site):
        answer = await site.ask(method, path, {} if method not in ("GET", "HEAD") else None, who="auditor")
        if method in ("GET", "HEAD"):
            assert answer.status == 200, (method, path)
        else:
            assert (answer.status, answer.code) == (403, "access.role"), (method, path)
    assert await site.store.images.registry_sequence() == before


async def test_every_method_that_is_not_reading_needs_the_role_admin(site: Site) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE"):
        for path in ("/admin/v1/images", "/audit/v1/appraisals", "/no/such/route", f"{SECRET}/workloads"):
            assert (await site.ask(method, path, who="auditor")).status == 403, (method, path)


TOKENS_THAT_ARE_NONE = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer x",
    f"Bearer {TOKEN_PREFIX}",
    f"Bearer {TOKEN_PREFIX}{'A' * 43}",
    f"Bearer {TOKEN_PREFIX}{'A' * 300}",
    f"Bearer {TOKEN_PREFIX}ä",
    "Basic YWRtaW46YWRtaW4=",
    "Bearer ' OR 1=1 --",
]


async def test_tokens_that_are_none(site: Site) -> None:
    for header in TOKENS_THAT_ARE_NONE:
        answer = await site.ask("GET", "/admin/v1/whoami", who=None, headers={"Authorization": header})
        assert answer.status == 401
        assert set(answer.document) == {"type", "title", "status", "detail", "code", "request_id"}


async def test_a_token_is_not_taken_from_anywhere_else(site: Site) -> None:
    token = site.trust.tokens["admin"]
    for options in (
        {"params": {"access_token": token, "token": token}},
        {"headers": {"Cookie": f"token={token}"}},
        {"headers": {"X-Auth-Token": token}},
    ):
        assert (await site.ask("GET", "/admin/v1/whoami", who=None, **options)).status == 401
    assert (await site.ask("GET", "/admin/v1/whoami", who=None, headers={"Authorization": f"bEaReR {token}"})).status == 200


async def test_expired_and_revoked_tokens_are_dead(site: Site) -> None:
    principals = Principals(store=site.store.principals, clock=site.clock, entropy=wiring.secrets.token_bytes)
    _, short = await principals.add("short-lived", PrincipalRole.ADMIN, lifetime=timedelta(hours=1), actor="test")
    _, doomed = await principals.add("doomed", PrincipalRole.ADMIN, lifetime=None, actor="test")
    who = (await expect(site, 200, "GET", "/admin/v1/whoami", who=short)).document
    assert (who["name"], who["role"]) == ("short-lived", "admin")
    assert who["expires_at"]
    site.clock.advance(3601)
    await expect(site, 401, "GET", "/admin/v1/whoami", who=short)
    await expect(site, 200, "GET", "/admin/v1/whoami", who=doomed)
    await principals.revoke("doomed", actor="test")
    await expect(site, 401, "GET", "/admin/v1/whoami", who=doomed)
    await expect(site, 401, "POST", "/admin/v1/images", image(), who=doomed)


# --- no route returns a secret's value --------------------------------------------------------------------------------


async def test_no_route_returns_a_value_not_even_to_an_admin(site: Site) -> None:
    routes = await every_route(site)
    site.seen.clear()
    for method, path in routes:
        for document in (None, {}, secret(path=f"vault/disk/{VM}", key_id=VM), {"value": b64(b"newer")}):
            await site.ask(method, path, document)
    for path in ("/admin/v1/secrets?limit=500", f"{SECRET}?value=1", f"{SECRET}/versions", f"{SECRET}/versions/1", f"{SECRET}/value"):
        await site.ask("GET", path)
    assert len(site.seen) > 100
    assert_no_secret(*site.seen)


async def test_a_value_that_is_refused_is_not_repeated(site: Site) -> None:
    site.seen.clear()
    value = SECRETS[VM].decode("latin-1")
    for document in (
        secret(value=value),
        secret(value=[value]),
        secret(path=value),
        secret(key_id=value),
        secret(workloads=value),
        {value: 1},
    ):
        assert (await site.ask("POST", "/admin/v1/secrets", document)).status in (400, 404, 422)
    for body in (json.dumps(secret(value=value))[:-1], json.dumps(value), "{" + json.dumps(value)):
        answer = await site.ask("POST", "/admin/v1/secrets", data=body.encode())
        assert answer.status == 400
    # The name of an unknown member is told to the admin who wrote it; a value never is.
    assert_no_secret(*(answer for answer in site.seen if b"unknown members" not in answer))


# --- images -----------------------------------------------------------------------------------------------------------


async def test_registering_an_image_twice_is_once(site: Site) -> None:
    first = await expect(site, 201, "POST", "/admin/v1/images", image(provenance={"package": "installer"}))
    before = await site.store.images.registry_sequence()
    second = await expect(site, 200, "POST", "/admin/v1/images", image(provenance={"package": "installer"}))
    assert second.document == first.document
    assert await site.store.images.registry_sequence() == before
    shown = await site.get(f"/admin/v1/images/{first.document['id']}", who="auditor")
    assert shown == first.document
    assert (shown["name"], shown["roles"], shown["state"]) == ("debian-initrd 12", ["initrd"], "active")
    assert (shown["registered_by"], shown["provenance"]) == ("an-admin", {"package": "installer"})
    assert shown["digests"]["sha-256"] == shown["id"].removeprefix("sha256:")


async def test_revoking_an_image_says_what_it_touches_and_is_for_ever(site: Site) -> None:
    await site.fetch()
    image_id = measure_image(INITRD).image_id
    path = f"/admin/v1/images/{image_id}/state"
    answer = await expect(site, 200, "POST", path, {"state": "revoked", "reason": "CVE-2026-0001"})
    assert answer.document["touches"] == {
        "workloads": ["kvmtool-kernel", VM],
        "secrets": ["vault/disk/kvmtool-kernel", f"vault/disk/{VM}"],
        "past_releases": 1,
    }
    shown = answer.document["image"]
    assert (shown["state"], shown["state_by"], shown["state_reason"]) == ("revoked", "an-admin", "CVE-2026-0001")
    again = await expect(site, 200, "POST", path, {"state": "revoked", "reason": "once more"})
    assert again.document["image"]["state_reason"] == "CVE-2026-0001"
    for state in ("active", "deprecated"):
        refused = await expect(site, 409, "POST", path, {"state": state, "reason": "please"})
        assert refused.code == "registry.image-revoked"
    assert (await expect(site, 409, "POST", "/admin/v1/images", image(INITRD))).code == "registry.image-revoked"
    assert [item["id"] for item in (await site.get("/admin/v1/images?state=revoked"))["images"]] == [image_id]


IMAGES_THAT_ARE_NONE = [
    {"name": ""},
    {"name": "x" * 201},
    {"name": "a\nb"},
    {"name": 7},
    {"name": None},
    {"roles": []},
    {"roles": "initrd"},
    {"roles": ["root"]},
    {"roles": [["initrd"]]},
    {"roles": [1]},
    {"roles": ["kernel"]},
    {"roles": ["device-tree"]},
    {"roles": {"initrd": True}},
    {"measurements": {}},
    {"measurements": []},
    {"measurements": "sha256"},
    {"measurements": None},
    {"provenance": []},
    {"provenance": "apt"},
    {"provenance": {"x": "y" * 20_000}},
    {"provenance": {"x": 2**60}},
]


async def test_a_set_of_images_is_registered_whole_or_not_at_all(site: Site) -> None:
    entries = [image(b"one" * 50, name="one"), image(b"two" * 50, name="two")]
    await expect(site, 403, "POST", "/admin/v1/images/batch", {"images": entries}, who="auditor")
    before = await site.store.images.registry_sequence()
    count = len((await site.get("/admin/v1/images"))["images"])
    spoilt = {"images": [*entries, image(b"three" * 50, roles=["kernel"])]}
    assert (await expect(site, 422, "POST", "/admin/v1/images/batch", spoilt)).code == "document.image"
    assert len((await site.get("/admin/v1/images"))["images"]) == count
    answer = await expect(site, 201, "POST", "/admin/v1/images/batch", {"images": entries})
    assert [(item["outcome"], item["added"], item["image"]["name"]) for item in answer.document["images"]] == [
        ("registered", [], "one"),
        ("registered", [], "two"),
    ]
    assert await site.store.images.registry_sequence() == before + 1
    entries[0]["provenance"] = {"package": "p"}
    answer = await expect(site, 200, "POST", "/admin/v1/images/batch", {"images": entries})
    assert [(item["outcome"], item["added"]) for item in answer.document["images"]] == [("extended", ["provenance"]), ("unchanged", [])]
    [word] = answer.document["images"][0]["image"]["further_provenance"]
    assert (word["provenance"], word["added_by"]) == ({"package": "p"}, "an-admin")


async def test_sets_that_are_none(site: Site) -> None:
    entry = image()
    for entries in (None, {}, [], [1], [{}], [entry] * 201, [{**entry, "state": "active"}], [{**entry, "measurements": None}]):
        answer = await expect(site, 422, "POST", "/admin/v1/images/batch", {"images": entries})
        assert answer.code == "document.image"


async def test_images_that_are_none(site: Site) -> None:
    for change in IMAGES_THAT_ARE_NONE:
        answer = await site.ask("POST", "/admin/v1/images", image(**change))
        assert (answer.status, answer.code.partition(".")[0]) == (422, "document"), answer
        assert len((await site.get("/admin/v1/images"))["images"]) == 6


MEASUREMENT_LIES = {
    "another size": {"size": 1},
    "a negative size": {"size": -1},
    "a size that is a text": {"size": "1400"},
    "digests of other bytes": {"digests": {"sha-256": "00" * 32, "sha-384": "00" * 48, "sha-512": "00" * 64}},
    "no digests": {"digests": {}},
    "a digest too short": {"digests": {"sha-256": "00", "sha-384": "00" * 48, "sha-512": "00" * 64}},
    "an unknown member": {"signature": "x"},
    "no granules": {"granules": {}},
    "a kernel header": {"kernel": {"text_offset": 0, "image_size": 0, "flags": 0}},
    "another kind": {"kind": "arm64-image"},
}


async def test_measurements_that_contradict_themselves_or_are_wrong(site: Site) -> None:
    for lie, change in MEASUREMENT_LIES.items():
        document = image()
        document["measurements"] |= change
        answer = await site.ask("POST", "/admin/v1/images", document)
        if lie == "digests of other bytes":  # consistent, and simply the measurements of something that does not exist
            assert answer.status in (201, 422)
        else:
            assert answer.status == 422, answer


STATES_THAT_ARE_NONE = [
    {"state": "gone", "reason": "x"},
    {"state": ["revoked"], "reason": "x"},
    {"state": "revoked", "reason": ""},
    {"state": "revoked", "reason": "  "},
    {"state": "revoked", "reason": "a\0b"},
    {"state": "revoked", "reason": "x" * 1001},
    {"state": "revoked", "reason": 5},
    {"state": "revoked"},
    {"state": "revoked", "reason": "x", "force": True},
]


async def test_states_that_are_none(site: Site) -> None:
    for document in STATES_THAT_ARE_NONE:
        image_id = measure_image(INITRD).image_id
        await expect(site, 422, "POST", f"/admin/v1/images/{image_id}/state", document)
        assert (await site.get(f"/admin/v1/images/{image_id}"))["state"] == "active"


# --- workloads --------------------------------------------------------------------------------------------------------


async def test_a_workload_that_names_what_cannot_serve_is_a_conflict(site: Site) -> None:
    document = QEMU_KERNEL.workload_document("web")
    unknown = json.loads(json.dumps(document))
    unknown["images"][0]["images"].append(UNKNOWN_IMAGE)
    assert (await expect(site, 409, "POST", "/admin/v1/workloads", unknown)).code == "registry.workload-image"
    other = await register_image(site, b"not a kernel" * 99, "initrd")
    wrong_role = json.loads(json.dumps(document))
    next(rule for rule in wrong_role["images"] if rule["role"] == "kernel")["images"] = [other]
    assert (await expect(site, 409, "POST", "/admin/v1/workloads", wrong_role)).code == "registry.workload-image"
    kernel = next(rule for rule in document["images"] if rule["role"] == "kernel")["images"][0]
    await expect(site, 200, "POST", f"/admin/v1/images/{kernel}/state", {"state": "revoked", "reason": "hole"})
    assert (await expect(site, 409, "POST", "/admin/v1/workloads", document)).code == "registry.workload-image"
    assert (await expect(site, 404, "GET", "/admin/v1/workloads/web")).code == "registry.workload-unknown"


async def test_a_workload_has_revisions_and_the_same_document_is_the_same_revision(site: Site) -> None:
    document = QEMU_KERNEL.workload_document(VM)
    assert (await expect(site, 201, "POST", "/admin/v1/workloads", document)).document["revision"] == 1
    changed = {**document, "description": "now with a description"}
    assert (await expect(site, 201, "POST", "/admin/v1/workloads", changed)).document["revision"] == 2
    assert (await site.get(f"/admin/v1/workloads/{VM}"))["workload"]["description"] == "now with a description"
    assert (await site.get(f"/admin/v1/workloads/{VM}?revision=1"))["workload"]["description"] == ""
    await expect(site, 404, "GET", f"/admin/v1/workloads/{VM}?revision=3")
    retired = await expect(site, 200, "POST", f"/admin/v1/workloads/{VM}/retire")
    assert retired.document["active"] is False
    assert (await expect(site, 201, "POST", "/admin/v1/workloads", changed)).document["revision"] == 3


REVISIONS_THAT_ARE_NONE = ["0x1", "-1", "one", "1" * 30, "1 OR 1", "\u0661"]


async def test_revisions_that_are_none(site: Site) -> None:
    for revision in REVISIONS_THAT_ARE_NONE:
        assert (await site.ask("GET", f"/admin/v1/workloads/{VM}", params={"revision": revision})).status == 400


WORKLOADS_THAT_ARE_NONE = [
    {"name": "Web"},
    {"name": ""},
    {"name": "x" * 65},
    {"surprise": 1},
    {"images": []},
    {"images": "all"},
    {"entry": {"role": "initrd"}},
    {"memory": {"base": "0x40000001", "size": {"min": 1, "max": 2}}},
    {"memory": {"base": 0, "size": {"min": 2, "max": 1}}},
    {"memory": {"base": "0xzz", "size": {"min": 1, "max": 2}}},
    {"memory": {"base": "0x1" + "0" * 16, "size": {"min": 1, "max": 2}}},
    {"memory": {"base": "0x" + "f" * 5000, "size": {"min": 1, "max": 2}}},
    {"rmm": {"hash_algorithms": ["md5"]}},
    {"rmm": {"versions": []}},
    {"realm": {"rpv": "xyz"}},
    {"realm": {"rems": ["zero"]}},
    {"platform": {"lifecycle": []}},
    {"platform": {"instance_ids": ["zz"]}},
    {"description": "x" * 1001},
]


async def test_workloads_that_are_none(site: Site) -> None:
    for change in WORKLOADS_THAT_ARE_NONE:
        answer = await site.ask("POST", "/admin/v1/workloads", {**QEMU_KERNEL.workload_document("web"), **change})
        assert (answer.status, answer.code) == (422, "document.workload"), answer


A_DESCRIPTION_WITH_ODD_CHARACTERS_COMES_BACK_OR_IS_REFUSED = ["a\0b", "\ud800", "<script>", "\u202e", "\x1b[31m"]


async def test_a_description_with_odd_characters_comes_back_or_is_refused(site: Site) -> None:
    for text in A_DESCRIPTION_WITH_ODD_CHARACTERS_COMES_BACK_OR_IS_REFUSED:
        answer = await site.ask("POST", "/admin/v1/workloads", {**QEMU_KERNEL.workload_document("web"), "description": text})
        assert answer.status in (201, 400, 422), answer
        if answer.status == 201:
            assert (await site.get("/admin/v1/workloads/web"))["workload"]["description"] == text


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_a_secret_from_creation_to_erasure(site: Site) -> None:
    created = (await expect(site, 201, "POST", "/admin/v1/secrets", secret(workloads=[]))).document
    assert (created["path"], created["key_id"], created["workloads"], created["created_by"]) == ("vault/tls/web", "web-tls", [], "an-admin")
    path = "/admin/v1/secrets/vault/tls/web"
    versions = (await expect(site, 201, "POST", f"{path}/versions", {"value": b64(b"second")})).document["versions"]
    assert [(version["version"], version["active"]) for version in versions] == [(1, True), (2, True)]
    bound = (await expect(site, 200, "PUT", f"{path}/workloads", {"workloads": [VM, VM]})).document
    assert bound["workloads"] == [VM]
    erased = (await expect(site, 200, "POST", f"{path}/versions/1/revoke")).document
    assert [version["active"] for version in erased["versions"]] == [False, True]
    assert (await expect(site, 404, "POST", f"{path}/versions/9/revoke")).code == "registry.version-unknown"
    assert (await expect(site, 409, "POST", "/admin/v1/secrets", secret())).code == "registry.secret-exists"
    assert (await expect(site, 409, "POST", "/admin/v1/secrets", secret(path="vault/tls/other"))).code == "registry.secret-exists"
    assert (await expect(site, 404, "GET", "/admin/v1/secrets/vault/tls/none")).status == 404


SECRETS_THAT_ARE_NONE = [
    ({"path": "vault/tls"}, 422),
    ({"path": "vault/tls/web/more"}, 422),
    ({"path": "/vault/tls/web"}, 422),
    ({"path": "vault/../web"}, 422),
    ({"path": "vault/tls/web\n"}, 422),
    ({"path": ["vault/tls/web"]}, 422),
    ({"key_id": ""}, 422),
    ({"key_id": "a/b"}, 422),
    ({"key_id": "web-tls\n"}, 422),
    ({"key_id": 5}, 422),
    ({"workloads": VM}, 422),
    ({"workloads": [1]}, 422),
    ({"workloads": [f"w{number}" for number in range(65)]}, 422),
    ({"workloads": ["no-such-workload"]}, 404),
    ({"value": ""}, 422),
    ({"value": 5}, 422),
    ({"value": None}, 422),
    ({"value": "not base64!"}, 400),
    ({"value": "AA=="}, 400),
    ({"value": b64(bytes(65537))}, 422),
    ({"more": 1}, 422),
]


async def test_secrets_that_are_none(site: Site) -> None:
    for change, status in SECRETS_THAT_ARE_NONE:
        answer = await site.ask("POST", "/admin/v1/secrets", secret(**change))
        assert answer.status == status, answer
        assert (await site.ask("GET", "/admin/v1/secrets/vault/tls/web")).status == 404, "nothing was created"


EVERY_MEMBER_OF_A_SECRET_IS_REQUIRED = ["path", "key_id", "workloads", "value"]


async def test_every_member_of_a_secret_is_required(site: Site) -> None:
    for member in EVERY_MEMBER_OF_A_SECRET_IS_REQUIRED:
        document = secret()
        del document[member]
        assert (await expect(site, 422, "POST", "/admin/v1/secrets", document)).code == "document.member"


# --- bodies -----------------------------------------------------------------------------------------------------------

POSTS = ["/admin/v1/images", "/admin/v1/workloads", "/admin/v1/secrets", f"{SECRET}/versions"]


BODIES_THAT_ARE_NO_DOCUMENT_BODY = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b'{"a":1,"a":2}',
    b"\xff\xfe{}",
    b"[" * 10_000,
    b'{"a":' * 100 + b"1" + b"}" * 100,
    b'{"a":1e999}',
]


async def test_bodies_that_are_no_document(site: Site) -> None:
    for body in BODIES_THAT_ARE_NO_DOCUMENT_BODY:
        for path in POSTS:
            answer = await site.ask("POST", path, data=body)
            assert answer.status in (400, 422), answer
            assert answer.headers["Content-Type"].startswith("application/problem+json")


async def test_a_huge_body_is_413_before_it_is_read(site: Site) -> None:
    for path in POSTS:

        class Endless:
            sent = 0

            async def __aiter__(self):
                while True:
                    self.sent += 1
                    yield bytes(65536)

        endless = Endless()
        headers = {"Content-Length": str(10**12)}
        answer = await site.ask("POST", path, data=endless, headers=headers)
        assert (answer.status, answer.code) == (413, "too-large")
        assert endless.sent < 10_000  # of fifteen million: how soon the client sees the answer is up to the machine


# --- listings ---------------------------------------------------------------------------------------------------------


LISTINGS_HAVE_PAGES = [("images", "images", "id"), ("workloads", "workloads", "name"), ("secrets", "secrets", "path")]


async def test_listings_have_pages(site: Site) -> None:
    for path, member, key in LISTINGS_HAVE_PAGES:
        whole = [item[key] for item in (await site.get(f"/admin/v1/{path}"))[member]]
        assert whole == sorted(whole)
        found, cursor = [], None
        for _ in range(len(whole) + 1):
            page = await site.get(f"/admin/v1/{path}", params={"limit": "1", **({"cursor": cursor} if cursor else {})})
            found += [item[key] for item in page[member]]
            cursor = page["next"]
            if cursor is None:
                break
        assert found == whole


LIMITS_THAT_ARE_NONE_LIMIT = ["0", "-1", "501", "x", "", "1e2", "99999999999999999999", "\u0663\u0663\u0663\u0663\u0663"]
LIMITS_THAT_ARE_NONE_PATH = ["/admin/v1/images", "/admin/v1/workloads", "/admin/v1/secrets", "/audit/v1/appraisals", "/audit/v1/changes"]


async def test_limits_that_are_none(site: Site) -> None:
    for path in LIMITS_THAT_ARE_NONE_PATH:
        for limit in LIMITS_THAT_ARE_NONE_LIMIT:
            assert (await site.ask("GET", path, params={"limit": limit})).status == 400


A_STATE_THAT_IS_NONE_IS_NOT_IGNORED = ["gone", "", "REVOKED"]


async def test_a_state_that_is_none_is_not_ignored(site: Site) -> None:
    """A filter with a slip of the pen must not answer as if there were no filter."""
    for state in A_STATE_THAT_IS_NONE_IS_NOT_IGNORED:
        assert (await site.ask("GET", "/admin/v1/images", params={"state": state})).status == 400


CURSORS_THAT_ARE_NONE_GIVE_NO_ERROR_CURSOR = ["%00", "%ED%A0%80", "zzz", "%27%20OR%201=1", "%F0%9F%98%80", "x" * 3000]
CURSORS_THAT_ARE_NONE_GIVE_NO_ERROR_PATH = ["/admin/v1/images", "/admin/v1/workloads", "/admin/v1/secrets"]


async def test_cursors_that_are_none_give_no_error(site: Site) -> None:
    for path in CURSORS_THAT_ARE_NONE_GIVE_NO_ERROR_PATH:
        for cursor in CURSORS_THAT_ARE_NONE_GIVE_NO_ERROR_CURSOR:
            assert (await site.ask("GET", f"{path}?cursor={cursor}")).status in (200, 400)


NAMES_THAT_ARE_NONE_ARE_NOT_FOUND_NAME = ["%00", "%ED%A0%80", "%F0%9F%98%80", "..", "%2e%2e", "x" * 3000, "sha256:zz", "%0A"]
NAMES_THAT_ARE_NONE_ARE_NOT_FOUND_PATH = [
    "/admin/v1/images/{}",
    "/admin/v1/workloads/{}",
    "/admin/v1/secrets/a/b/{}",
    "/audit/v1/appraisals/{}",
    "/audit/v1/payloads/{}",
]


async def test_names_that_are_none_are_not_found(site: Site) -> None:
    for path in NAMES_THAT_ARE_NONE_ARE_NOT_FOUND_PATH:
        for name in NAMES_THAT_ARE_NONE_ARE_NOT_FOUND_NAME:
            assert (await site.ask("GET", path.format(name))).status in (404, 400)
