"""The catalogue of finding ids: append-only, never reused (STYLE rule 10).

Each entry names the step of the appraisal that it belongs to (0: before the appraisal), what happened in one sentence
that stands on its own, and what the reader can do about it. ``docs/findings.md`` is made from this table.
"""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What a finding id means. ``code`` is the coarse, stable code that a guest is told."""

    id: str
    step: int
    code: str
    title: str
    remedy: str


def _entries(step: int, code: str, rows: tuple[tuple[str, str, str], ...]) -> tuple[CatalogueEntry, ...]:
    return tuple(CatalogueEntry(id_, step, code, title, remedy) for id_, title, remedy in rows)


# A row is an id, what happened, what to do: a table reads best with one row a line.
# fmt: off
_CHALLENGE = _entries(0, "challenge-refused", (
    ("challenge.unknown", "No challenge with this id was issued.", "Ask for a new challenge."),
    ("challenge.expired", "The challenge is older than its lifetime.", "Ask for a new challenge and answer it at once."),
    ("challenge.altered", "A stored challenge does not commit to the key that is stored with it.", "Somebody changed the database: look for who can write to it."),
    ("challenge.redeemed", "The challenge was answered before; each works once.", "Ask for a new challenge. If the guest did not answer it, somebody replayed it."),
))
_KEY = _entries(0, "key-refused", (
    ("key.malformed", "The guest's public key is not a JWK that we can read.", "Send an RFC 7517 public key."),
    ("key.type", "The guest's public key has a type, curve or algorithm that no secret is sealed to.", "Use P-256, P-384 or X25519 with ECDH-ES+A256KW, or RSA with RSA-OAEP-256."),
    ("key.weak", "The guest's RSA key is too short or its exponent too small.", "Use RSA of 2048 bits or more with exponent 65537."),
    ("key.private", "The guest sent a private key.", "Send the public half only, and make a new key: this one is burnt."),
    ("key.legacy", "The guest asks for RSA PKCS#1 v1.5, which is switched off.", "Upgrade the client; the legacy switch weakens every release."),
    ("key.capacity", "The secret is longer than plain RSA can carry under this key.", "Use ECDH-ES+A256KW or RSA-OAEP-256: these seal secrets of any length."),
))
_ANSWER = _entries(0, "answer-refused", (
    ("answer.unopenable", "The broker's answer is not a secret sealed to the guest's key in the way the guest asked for.", "Ask again over another path: somebody changed the key or the answer."),
))
# Step 9, like an unbound secret: which names exist is not told to a guest whose evidence is not in order.
_REQUEST = _entries(9, "not-authorized", (
    ("request.secret-unknown", "No secret of this name is registered, or no workload may have it.", "Register the secret and bind it to a workload."),
))
_ENVELOPE = _entries(1, "evidence-malformed", (
    ("envelope.media-type", "The media type of the evidence is not one we read.", "Use one of the types in the challenge's accept list."),
    ("envelope.too-large", "The evidence is larger than the limit.", "A CCA token and its logs fit; look for what else is sent."),
    ("envelope.malformed", "The envelope around token and logs is malformed.", "See docs/guest.md for the envelopes."),
    ("envelope.base64", "A base64 field is not canonical base64.", "Use the base64url alphabet without padding or white space."),
    ("envelope.token-missing", "The envelope holds no CCA token.", "Put the token first."),
    ("envelope.duplicate", "The envelope holds two tokens, or two logs of one kind.", "Send each once."),
    ("envelope.unknown-member", "The envelope holds a member that we do not know.", "See docs/guest.md for the envelopes."),
))
_CBOR = _entries(1, "evidence-malformed", (
    ("cbor.truncated", "The CBOR input ends inside an item.", "The token was cut; look at the transport."),
    ("cbor.trailing-bytes", "Bytes follow the CBOR item.", "Send the item alone."),
    ("cbor.indefinite-length", "An indefinite length is used.", "CCA tokens use definite lengths only."),
    ("cbor.duplicate-key", "A map has the same key twice; two readers could see two different values.", "Nothing honest writes this: treat the sender as hostile."),
    ("cbor.key-type", "A map key is not an integer.", "Nothing honest writes this: text keys can spell integer labels for lenient readers."),
    ("cbor.depth", "CBOR items are nested too deeply.", "A CCA token needs four levels."),
    ("cbor.items", "The CBOR input has too many items.", "See limits.cbor_items."),
    ("cbor.tag", "A CBOR tag stands where none is allowed.", "Only 399, 907 and 18 appear in a CCA token."),
    ("cbor.float", "A floating point number stands where none is allowed.", "CCA claims hold no floats."),
    ("cbor.simple", "A CBOR simple value stands where none is allowed.", "CCA claims hold no simple values but booleans."),
    ("cbor.text", "A text string is not valid UTF-8.", "The token is damaged or hostile."),
    ("cbor.encoding", "An integer or length is not in its shortest form where that is required.", "Use preferred serialisation."),
    ("cbor.malformed", "The bytes are not well-formed CBOR.", "The token is damaged or of another format."),
))
_TOKEN = _entries(2, "realm-token-refused", (
    ("token.too-large", "The token is larger than the limit.", "TF-RMM's tokens are below 4 KiB."),
    ("token.form", "The outer form is neither tag 399 nor tag 907 as the CCA token specification says.", "Send what configfs-tsm gave, unchanged."),
    ("token.member", "The collection has a missing, unknown or wrongly shaped member.", "Members are 44234 and 44241."),
    ("token.cose", "A member is not a tagged COSE_Sign1 of four elements.", "Send what configfs-tsm gave, unchanged."),
    ("token.header", "A COSE header has a parameter that is not allowed where it stands.", "The realm token's protected header is {1: -35} and the unprotected one is empty."),
    ("token.algorithm", "The signature algorithm is not allowed for this token.", "Realm tokens use ES384; platform tokens ES256, ES384 or ES512."),
    ("token.claim-missing", "A claim that the profile requires is absent.", "Check the RMM's version against the supported profiles."),
    ("token.claim-type", "A claim has the wrong type.", "Check the RMM's version against the supported profiles."),
    ("token.claim-value", "A claim has the wrong size or a value outside its range.", "Check the RMM's version against the supported profiles."),
    ("token.profile", "The profile is not one we know.", "See docs/tokens.md for the supported profiles."),
    ("token.profile-pair", "The platform profile and the realm profile do not belong together.", "Choosing the profile chooses how the RAK is read; mixed pairs are refused."),
    ("token.profile-legacy", "The token has the legacy profile.", "Update the RMM; a workload may allow the legacy profile."),
    ("token.hash-algorithm", "A hash algorithm name is unknown or not allowed by the profile.", "sha-256, sha-384 and sha-512 are known."),
    ("token.hash-length", "A measurement's length is not that of its hash algorithm.", "Nothing real emits this; some published samples do."),
    ("token.rak", "The realm attestation key is malformed, not on P-384, or not of the form the profile says.", "Check the RMM's version."),
    ("token.rak-private", "The realm attestation key in the token has a private part.", "The platform is compromised or is a test set-up."),
    ("token.devices", "The device token is missing, unexpected or does not match its hash.", "Devices are judged only when the realm token names them."),
    ("realm.signature", "The realm token's signature does not verify under the key it carries.", "The token was changed or is forged."),
    ("realm.binding", "The platform token does not vouch for the key that signed the realm token.", "A realm token was spliced to another platform's token."),
    ("realm.challenge", "The realm token answers another challenge.", "A token was replayed, or two exchanges were mixed up."),
    ("realm.test-key", "The token is signed by a key whose private half is published.", "Anybody can forge this token. Allow it in test set-ups only."),
    ("realm.rim-zero", "The realm's initial measurement is all zero, which no RMM computes.", "Synthetic sample tokens have it; send what configfs-tsm gave."),
    ("platform.signature", "The platform token's signature does not verify under the given key.", "Wrong CPAK, or the token is forged."),
))
_PLATFORM = _entries(3, "platform-refused", (
    ("platform.not-judged", "The platform could not be judged.", "Other findings say why. If there are none, the verifier gave no answer: the broker's log has the reason beside the ticket, and /readyz says whether it is back."),
    ("verifier.malformed", "The verifier's answer is not an attestation result that we can read.", "Check the verifier's version and URL."),
    ("verifier.algorithm", "The attestation result is signed with an algorithm that is not allowed.", "See verifier.algorithms in the configuration."),
    ("verifier.signature", "The attestation result is not signed by a key that we trust.", "Pin the verifier's key; if it was rotated, pin the new one."),
    ("verifier.key", "A key for attestation results is not a public JWK that we can read.", "Pin the public half of the verifier's key: EC, RSA or Ed25519."),
    ("verifier.discovery-key", "The key that signed the attestation result is vouched for by the verifier's own discovery document only.", "Pin the key in the configuration: now the TLS peer is the root of trust."),
    ("verifier.key-drift", "The verifier advertises another key than those that are pinned.", "If it was rotated on purpose, pin the new key; else find out who answers."),
    ("verifier.published-key", "The attestation result is signed by a key whose private half is published.", "Give the verifier a key of its own."),
    ("verifier.profile", "The attestation result has an unknown profile.", "See verifier.profiles in the configuration."),
    ("verifier.identity", "The attestation result does not say who made it, or names another verifier.", "Check the verifier's version and URL."),
    ("verifier.stale", "The attestation result is too old.", "Check both clocks."),
    ("verifier.future", "The attestation result is from the future.", "Check both clocks."),
    ("verifier.nonce", "The attestation result is about another session.", "An old result was replayed, or a proxy mixed up sessions."),
    ("verifier.submods", "The attestation result lacks a part that must be there, or has one that must not.", "One part named ARM_CCA means that the verifier gave up early, mostly because it has no trust anchor for this platform: facts.platform.claims.problem of the record says what it said. Endorse the platform."),
    ("verifier.status", "The verifier does not affirm the platform.", "Look at the trust vector in the record; provision reference values and trust anchors."),
    ("verifier.realm-status", "The verifier's opinion of the realm is worse than allowed.", "Only affirming, or warning for lack of reference values, is accepted."),
    ("verifier.vector", "The trust vector is missing, unknown or reports a malfunction.", "Look at the verifier's log."),
    ("verifier.policy-id", "The verifier applied an appraisal policy that is not allowed.", "See verifier.appraisal_policy_ids in the configuration."),
    ("verifier.evidence-mismatch", "The verifier read other claims in the token than we did.", "If both readings are shown, nothing honest causes this: the token was built to be read in two ways. If the verifier did not say what it read, it reports no claims and cannot be used."),
    ("platform.lifecycle", "The platform is not in a life cycle state that is allowed.", "A platform in debug state cannot protect a realm."),
    ("platform.implementation", "The platform's implementation id is not allowed.", "Allow it in the workload, or refuse the machine."),
    ("platform.instance", "The platform's instance id is not allowed.", "Allow it in the workload, or refuse the machine."),
    ("platform.test-key", "The platform token is signed by a key whose private half is published.", "Anybody can forge this token. Allow it in test set-ups only."),
    ("platform.test-instance", "The platform is a public test platform; its key is published.", "Allow it in test set-ups only."),
))
_LOG = _entries(4, "log-refused", (
    ("log.missing", "No VMM log came with the token.", "Start the VMM with its measurement log on, and send the log along."),
    ("log.kind", "A log came that the workload does not ask for; it was not judged.", "If it explains REMs, name its kind in runtime.logs of the workload."),
    ("log.too-large", "The log is larger than the limit.", "See limits.vmm_log_bytes and limits.log_bytes."),
    ("log.spec-id", "The log does not start with a valid Spec ID Event03 record.", "Only crypto-agile TCG2 logs are read."),
    ("log.legacy", "The log has the SHA-1 format.", "Only crypto-agile TCG2 logs are judged."),
    ("log.truncated", "The log ends inside a record.", "Send the whole log area."),
    ("log.padding", "Something stands behind the log's padding.", "Send the log area as it is."),
    ("log.events", "The log has too many records.", "See limits.log_events."),
    ("log.algorithm", "A record uses an algorithm that the header does not list, or lists one wrongly.", "The log is damaged or hostile."),
    ("log.digests", "A record has the wrong number of digests, or a digest where none may be.", "The log is damaged or hostile."),
    ("log.event-type", "A record has a type that this log may not contain.", "The log is damaged or hostile."),
    ("log.event-size", "A record's size field is larger than what follows or than the limit.", "The log is damaged or hostile."),
    ("log.event-data", "A record's data does not have the structure of its type.", "The log is damaged or hostile."),
    ("log.index", "A record has a register index that this kind of log may not use.", "No index is read under another numbering."),
    ("log.encoding", "A canonical event log is not well-formed in its encoding.", "The log is damaged or hostile, or has another encoding than it was sent as."),
    ("log.recnum", "A record's number does not follow those before it.", "The log is damaged or hostile, or records are missing."),
    ("log.content", "A record's content is not of the shape of its type, or of a type that is reserved.", "The log is damaged or hostile."),
    ("log.table", "The CCEL ACPI table is malformed, or the log area does not fit it.", "Read table and log area from one boot."),
))
_PLAN = _entries(4, "log-refused", (
    ("plan.realm-create", "The log has no REALM_CREATE, more than one, or something before it.", "Exactly one realm create, first."),
    ("plan.parameters", "A realm parameter has a value that no RMM accepts.", "The log is damaged or hostile."),
    ("plan.hash-algorithm", "The log's algorithm is not the realm's.", "The VMM must log with the realm's measurement algorithm."),
    ("plan.vm-version", "The VM VERSION record is repeated, misplaced or out of bounds.", "The log is damaged or hostile."),
    ("plan.ripas", "A RIPAS range is empty, misaligned, outside the protected half, overlapping or too fine.", "The log is damaged or hostile."),
    ("plan.image", "An image record is repeated, empty or out of the address range.", "The log is damaged or hostile."),
    ("plan.unmeasured", "The log says that data was loaded without being measured, and it is not the log area.", "An image record without a digest is never unmeasured data."),
    ("plan.log-area", "The log area is repeated, too large or misaligned.", "The log area is at most limits.unmeasured_bytes."),
    ("plan.rec", "A REC record is malformed or there are too many.", "The log is damaged or hostile."),
    ("plan.granules", "The images have more granules than the limit.", "See limits.plan_granules."),
))
_RIM = _entries(5, "measurement-refused", (
    ("rim.image-unknown", "The log names an image that is not registered.", "Register the image, if you trust it."),
    ("rim.image-revoked", "The log names an image that was revoked.", "Boot a current image."),
    ("rim.image-size", "The logged size is not that of the registered image.", "The log lies about what was loaded, or the VMM loads another part."),
    ("rim.image-alignment", "The image lies at an offset within a page for which no granule digests are registered.", "Load it page aligned; granule digests are registered for page aligned images and for kvmtool's initrd."),
    ("rim.overlap", "The log populates one granule twice, which no RMM does.", "The log is not of this realm."),
    ("rim.dialects", "No dialect of the replay is both allowed and possible within the limits.", "Look at the workload's rmm table and at limits.replay_granules."),
    ("rim.not-judged", "The RIM could not be recomputed.", "The other findings of this step and of the earlier ones say why."),
    ("rim.derived", "No log came; the VM was found among those that the workload defines.", "Nothing to do: the record says which VM it is."),
    ("rim.no-candidate", "No log came, and no VM that the workload defines has the RIM that the RMM signed.", "What was expected lists what was tried. Host and VM must have just that: layout and version of the VMM, LPA2, breakpoints, SVE, PMU, RAM, tree. kbs-rim measure --explain shows the RIM of a command line."),
    ("rim.not-searched", "No log came, and the VMs that the workload defines were not tried.", "Mend what the earlier steps found; a machine that often came with an unknown RIM has to wait."),
    ("rim.mismatch", "No allowed replay of the log gives the RIM that the RMM signed.", "The host did something that is not in the log, or loaded other bytes."),
))
_BOOT = _entries(6, "boot-plan-refused", (
    ("boot.not-judged", "The boot plan could not be judged.", "The findings of the earlier steps say why."),
    ("boot.role-missing", "An image that the workload requires was not loaded.", "Compare the VM's definition with the workload."),
    ("boot.role-unexpected", "An image was loaded that the workload does not allow.", "Images of two workloads may have been mixed."),
    ("boot.role-repeated", "Two images of one role were loaded.", "Each role is loaded once."),
    ("boot.overlap", "Two ranges overlap.", "A hostile host may hide one image under another."),
    ("boot.outside-ram", "A range lies outside RAM.", "Compare the VM's definition with the workload."),
    ("boot.address", "An image lies at an address that its role may not have.", "Compare the VM's definition with the workload."),
    ("boot.alignment", "An image lies at an address with an alignment that its role may not have.", "arm64 kernels load at 2 MiB plus text_offset, firmware at 4 KiB, device trees at 8 bytes."),
    ("boot.log-area", "The unmeasured log area holds something that must be measured.", "The entry point or x0 points into memory that the host wrote."),
    ("boot.log-reserved", "The device tree does not reserve the log area.", "Use the device tree of a VM with a measurement log."),
    ("boot.rec-count", "Not exactly one vCPU is runnable at boot.", "A second runnable vCPU is host-chosen code."),
    ("boot.rec-flags", "A REC has unknown flags.", "Only bit 0 is defined."),
    ("boot.entry-point", "The first vCPU does not start at the entry point of the kernel or firmware.", "The host jumped into the middle of an image."),
    ("boot.x0", "x0 is not what the boot protocol says.", "x0 must be the measured device tree, or zero."),
    ("boot.gprs", "x1 to x7 are not zero.", "The boot protocol reserves them."),
    ("boot.flags", "The realm has a feature flag that the workload does not allow.", "See the workload's parameters table."),
    ("boot.parameters", "A realm parameter is outside the workload's bounds.", "See the workload's parameters table."),
    ("boot.hash-algorithm", "The realm's hash algorithm is not allowed.", "See the workload's rmm table."),
    ("boot.hash-mismatch", "The token and the log name different hash algorithms.", "The log is not of this realm."),
    ("boot.ram", "The RAM is not what the workload or the VMM allows.", "See the workload's memory table."),
    ("boot.vmm", "The VMM is not one the workload allows.", "See the workload's vmm list."),
    ("boot.kernel-header", "The kernel image has no arm64 Image header, or its memory reaches beyond RAM, into another image or into the log area.", "Register a Linux arm64 Image."),
    ("boot.image-deprecated", "A deprecated image was loaded.", "Plan the move to its successor."),
))
_TREE = _entries(7, "device-tree-refused", (
    ("tree.malformed", "The device tree is malformed.", "Register the tree that the VMM loads."),
    ("tree.memory", "The device tree's memory is not the realm's RAM.", "Register the tree of this VM size."),
    ("tree.initrd", "The device tree's initrd range is not the initrd that was loaded.", "Register the tree of this VM."),
    ("tree.missing", "No device tree was measured, or only one that nobody knows.", "None: the guest would read a tree that the host wrote. Unknown: register it, or send its bytes."),
    ("tree.not-supplied", "The workload judges device trees by rules, and the tree's bytes did not come.", "Let the guest send them: kbs-rim guest get --device-tree FILE."),
    ("tree.regenerated", "The device tree that the log names was made anew from the workload's definition.", "Nothing to do: its digest is the one in the log."),
    ("tree.not-regenerated", "The device tree made anew from the workload's definition is not the one that the log names.", "Compare the VM's command line with the definition, or let the guest send the tree."),
    ("tree.not-measured", "The device tree that came with the evidence is not one that was loaded.", "Send the bytes that the VMM loaded; a kernel that wipes seeds changes them."),
    ("tree.ambiguous", "The log and the envelope hold different device trees.", "Send the tree once."),
    ("tree.rules-unknown", "The workload names a rule pack that this broker does not have.", "See config/tree_rules and appraisal.tree_rules_directory."),
    ("tree.unknown-node", "The device tree has a node that the rule pack does not know.", "The host added a device. If it is wanted, write a rule pack of your own."),
    ("tree.node-count", "A node of the device tree is missing, or there are too many of its kind.", "Compare the VM's definition with the rule pack."),
    ("tree.unknown-property", "A node of the device tree has a property that the rule pack does not know.", "The host tells the kernel something that nobody expects."),
    ("tree.missing-property", "A node of the device tree lacks a property that it must have.", "Without it the kernel would ignore the node or read it otherwise."),
    ("tree.value", "A property of the device tree has a value that the rule pack does not allow.", "Compare the VM's definition with the rule pack."),
    ("tree.address", "A device lies where its kind may not lie.", "A device inside RAM, or elsewhere than the VMM has it, is the host's own idea."),
    ("tree.overlap", "Two things in the device tree lie at the same address.", "A device must not cover RAM or another device."),
    ("tree.phandle", "A phandle of the device tree is repeated or names nothing.", "Two readers could follow it to different nodes."),
    ("tree.cpus", "The device tree's CPUs are not as the workload or the rule pack says.", "See device_tree.cpus of the workload."),
    ("tree.bootargs", "The boot arguments are not those that the workload allows.", "See device_tree.bootargs of the workload."),
    ("tree.seed", "The device tree has a seed that the host chose.", "Start the VMM with dtb-randomness=off, or allow seeds in the workload."),
    ("tree.log-area", "The device tree's event log is not the log area that the log names.", "The guest would trust memory as its log that is something else."),
    ("tree.reserved", "The device tree reserves memory in another way than for the event log.", "A reservation can hide or expose memory of the kernel."),
    ("tree.more", "The device tree has more faults than are listed.", "Look at the first ones."),
))
_REM = _entries(8, "measurement-refused", (
    ("rem.mismatch", "A REM does not have the expected value.", "Runtime measurements must be zero or as the workload says."),
    ("rem.nothing-measured", "Firmware started first and left all REMs at zero.", "The RIM covers the firmware alone. Let the firmware's log explain the REMs (runtime), list their values in realm.rems, or be sure that the firmware verifies all it starts."),
    ("rem.algorithm", "A log of runtime measurements has an event without a digest in the realm's algorithm.", "Firmware and agents must log with the realm's measurement algorithm."),
    ("rem.log-missing", "A log that the workload needs to explain the REMs did not come.", "Let the guest send it; runtime.logs of the workload names the kinds."),
    ("rem.numbering", "A log counts PCRs, and the workload does not say how those map to REMs.", "If firmware really measured by that mapping, set pcr_mapping of the log in runtime.logs."),
    ("rem.unexplained", "A REM moved and no log has an event for it.", "Whatever was measured there is unknown. Send the log of what measured it."),
    ("rem.replay", "The logs replay to another value than the signed REM.", "The logs are not of this boot, not complete, or in another order than they extended the registers."),
    ("rem.not-judged", "The events of the REMs could not be judged.", "The other findings of this step and of step 4 say why."),
    ("rem.event-data", "An event's data do not have the structure that its type demands.", "The log is damaged or hostile."),
    ("rem.event-unknown", "Something was measured that nobody knows.", "Register the image, or let the digest in by runtime.digests of the workload, if you trust it."),
    ("rem.event-refused", "Something was measured that the workload does not let in.", "Compare the event with the runtime table of the workload."),
    ("rem.event-missing", "Something that the workload demands was not measured.", "Compare the boot with the runtime table of the workload."),
    ("rem.image-missing", "No image of a role that the workload demands was measured.", "Compare the boot with runtime.images of the workload."),
    ("rem.image-unexpected", "A registered image was measured that the workload does not let in, or not there.", "Compare the boot with runtime.images of the workload."),
    ("rem.image-revoked", "A revoked image was measured.", "Boot a current image."),
    ("rem.image-deprecated", "A deprecated image was measured.", "Plan the move to its successor."),
    ("rem.command-line", "A kernel got a command line that the workload does not allow.", "See runtime.command_line of the workload."),
    ("rem.secure-boot", "Secure Boot is not in the state, or its keys are not those, that the workload demands.", "See runtime.secure_boot of the workload."),
    ("rem.authority", "An image was vouched for by a key, or under a revocation level, that the workload does not list.", "See runtime.secure_boot.authorities of the workload."),
    ("rem.ima", "IMA measured a file that the workload does not list.", "See runtime.ima of the workload."),
    ("rem.event-order", "An image was measured after the firmware had handed over to a kernel, so it started nothing.", "Whatever runs in the realm added it. Do not trust this boot; look at the order of the events in its log."),
    ("rem.register", "A log of runtime measurements has an event that would extend the RIM.", "Only the RMM extends the RIM: the log is damaged or hostile, or counts other registers."),
    ("rpv.mismatch", "The realm personalization value is not the expected one.", "The host chose another RPV."),
    ("mec.policy", "The realm's memory is not encrypted with a private key.", "Start the realm with a private MEC policy."),
))
_POLICY = _entries(9, "not-authorized", (
    ("policy.no-workload", "No workload may have this secret.", "Bind the secret to a workload."),
    ("policy.workload-inactive", "Every workload that may have this secret is retired.", "Bind the secret to an active workload."),
    ("policy.secret-revoked", "The secret has no active version.", "Store a new version."),
    ("policy.accepted", "Everything matched.", "Nothing to do."),
))
_ENDORSEMENT = _entries(0, "endorsement-refused", (
    ("endorsement.malformed", "An endorsement file does not have the structure of its format.", "See docs/verifier.md for the formats; cocli writes CoRIMs that are read here."),
    ("endorsement.profile", "A CoRIM has no profile, or one that is not for Arm CCA.", "Use tag:arm.com,2025:cca_platform#1.0.0 or tag:arm.com,2025:cca_realm#1.0.0."),
    ("endorsement.signature", "A signed CoRIM is not signed by a key or chain that was given.", "Give the signer's root certificate, or the unsigned CoRIM."),
    ("endorsement.validity", "A CoRIM is outside its validity.", "Get a current one from its author."),
    ("endorsement.unwritable", "The content has no place in the format that was asked for.", "See docs/corim.md for what each format can hold."),
    ("endorsement.not-accepted", "A provisioning service did not take a CoRIM.", "Its own words are in the message; docs/corim.md lists the usual ones."),
    ("endorsement.duplicate", "Two endorsements contradict each other.", "One trust anchor for each platform instance."),
    ("endorsement.test-key", "A trust anchor is a key whose private half is published.", "Anybody can forge this platform's tokens. Allow it in test set-ups only."),
))
_IMAGE = _entries(0, "image-refused", (
    ("image.empty", "The image file is empty.", "Register the file that the VMM loads."),
    ("image.too-large", "The image file, or what it unpacks to, is larger than the limit.", "See limits.image_bytes and limits.gunzip_bytes."),
    ("image.truncated", "The image does not have the length that was announced.", "The file changed while it was read, or the transfer was cut; hash it again."),
    ("image.gzip", "The gzip'd kernel is damaged.", "Fetch it again."),
    ("image.kernel", "The file is no kernel that a VMM can start: neither an arm64 Linux Image nor one packed with gzip.", "Give the Image itself; an EFI zboot file or a UKI is started by firmware."),
    ("image.pe", "The PE file is damaged, or built in a way that firmware refuses.", "Fetch it again; a file that firmware does not load is never measured."),
))
_SOURCE = _entries(0, "source-refused", (
    ("source.archive", "An archive is damaged, or uses what no honest package needs: sparse files, contradicting sizes, names that lead out of it.", "Fetch it again from where it is signed; if it stays so, somebody made it by hand."),
    ("source.name-twice", "An archive holds two files of one name.", "Which of them a system would boot depends on who unpacks it: find out who made it."),
    ("source.compressed", "Compressed data is damaged, cut off, or needs more memory than is allowed.", "Fetch it again."),
    ("source.too-large", "An archive unpacks to more than is allowed, or has too many files.", "It may be made to exhaust the machine; compare its size with what its author states."),
    ("source.package", "A file is no Debian package as deb(5) describes it.", "Fetch it again, from its repository."),
    ("source.package-differs", "A package is not the one that the signed index names: its size, digest, name or version is another.", "The mirror or the way to it changed it; fetch it from another one and look into it."),
    ("source.package-unknown", "The signed indexes of the source do not have this package, or not this version.", "Name one of the versions that the message lists."),
    ("source.signature", "No allowed key of the keyring has signed the release file, or a signature of it is bad.", "Check keyring and signed_by of the source; never fetch around it."),
    ("source.expired", "The release file is out of date, or from the future.", "The mirror is stale or somebody replays an old state; use another mirror, and check the clock."),
    ("source.rollback", "The release file is older than one that was seen before from this source.", "The mirror is behind, or somebody replays an old state with its known holes."),
    ("source.identity", "The release file is signed, but is of another suite, origin or architecture than the source names.", "The mirror hands out another suite's index; check the source's suite and origin."),
    ("source.release", "The signed release file is malformed, or lists no SHA-256 of what is needed.", "The source is not an archive that can be followed; ask its maintainers."),
    ("source.index-differs", "A package index is not the one that the signed release file lists.", "The mirror was updated meanwhile or changed it; try again, then use another mirror."),
    ("source.index", "A package index is signed but malformed.", "Ask the maintainers of the source."),
    ("source.oci", "The folder is no OCI image layout that can be read.", "Export the image anew, for example by skopeo copy ... oci:DIR."),
    ("source.oci-digest", "A manifest, index or layer is not what its digest says.", "The layout is damaged or was changed; export it anew."),
    ("source.nothing", "Nothing that boots was found, or nothing that the patterns select.", "List what there is with --dry-run --all, and choose with --match and --role."),
    ("source.unexpected", "What was found is not the image that the manifest or the proposal names.", "The source changed; look at what it has now before you trust it."),
    ("source.file", "A file or folder cannot be taken as a source: it is a link, a device, or changed while it was read.", "Name a regular file or a real folder."),
))
_UNKNOWN = _entries(0, "not-found", (
    ("registry.image-unknown", "No image with this id is registered.", "Register it, or list the images."),
    ("registry.workload-unknown", "No workload of this name, or no such revision of it, is registered.", "Register it, or list the workloads."),
    ("registry.version-unknown", "The secret has no such version.", "Show the secret to see its versions."),
    ("registry.principal-unknown", "No principal of this name exists.", "List the principals."),
    ("record.unknown", "No appraisal has this ticket number.", "Compare the number with the guest's message."),
    ("record.payload-unknown", "No payload with this digest is stored.", "It was never kept, or was pruned; its digest stays in the record."),
))
_CONFLICT = _entries(0, "conflict", (
    ("registry.image-revoked", "The image is revoked, and that is for ever.", "Register a successor."),
    ("registry.image-differs", "The image is registered with other measurements.", "The same loaded bytes were measured differently: compare the files, one may be packed."),
    ("registry.workload-image", "The workload names an image that is not registered, is revoked or lacks the role.", "Register the image with that role first."),
    ("registry.workload-rules", "The workload names a rule pack for device trees that this broker does not have.", "Name one that it has, or put yours into appraisal.tree_rules_directory and start the broker again."),
    ("registry.secret-exists", "The path or the key id belongs to another secret.", "Choose another one, or add a version."),
    ("registry.secret-version", "Another version was stored or revoked meanwhile.", "Look at the secret and try again."),
    ("registry.principal-exists", "The name is or was a principal's; names are never reused.", "Choose another name."),
    ("registry.moved", "The registry changed between an appraisal and its release.", "Nothing to do: the appraisal is repeated."),
    ("store.conflict", "The change contradicts what is stored.", "Look at the present state and try again."),
))
_DOCUMENT = _entries(0, "document-refused", (
    ("document.image", "The image document is not valid.", "Let kbs-rim image add measure the file and send the document."),
    ("document.workload", "The workload document is not valid.", "See docs/workloads.md."),
    ("document.tree-rules", "The rule pack for device trees is not valid.", "The message names the keys; docs/device-trees.md has the format."),
    ("document.secret", "The path, key id or value of a secret is not valid.", "A path is repository/type/tag; a value has 1 to 65536 bytes."),
    ("document.platform", "The file is not a simulated platform.", "Make one with kbs-rim simulate --new-platform."),
    ("document.principal", "The name or the lifetime of a principal is not valid.", "Use letters, digits, dots, dashes, underscores and @; a token lives for up to ten years."),
    ("document.text", "A name, reason or provenance is empty, too long or has characters that cannot be stored.", "Use printable text."),
    ("document.filter", "A filter of a query is not valid.", "See the documentation of the query."),
    ("document.member", "The body of a request lacks a member, or has one that is not read.", "See docs/administrator.md for the members."),
    ("document.value", "A value of a request is not written as it must be.", "Write it in base64url without padding."),
    ("document.vm", "A VM cannot be built as its definition says.", "The message names what to change."),
    ("document.vm-arguments", "The arguments of a VMM cannot be read, or ask for something that is not modelled.", "The message names the option and what to write instead; docs/calculator.md has the list."),
    ("document.vm-definition", "The definition of a VM (libvirt's XML, cloud-hypervisor's JSON) cannot be read, or defines no realm that is known here.", "The message names the element or key; docs/workload-sources.md has the list."),
    ("document.igvm", "The IGVM file is damaged, or is not for Arm CCA.", "The message names the header; docs/workload-sources.md says what is read."),
    ("document.workload-draft", "No workload follows from the definition: a realm that is started so could never be accepted.", "The message says what the definition would have to say."),
    ("document.vmm-profile", "The VMM profile is not valid.", "The message names the key; docs/calculator.md has the format."),
    ("document.host", "The host capabilities are not valid, or lack something that the VM needs.", "The message names the key; docs/calculator.md has the format."),
    ("document.sources", "The file of image sources, the manifest of images or the file of proposals is not valid.", "The message names the key; docs/image-sources.md has the format."),
    ("document.operations", "The file of RMM operations is not valid.", "The message names the case, the operation and the key."),
))
_ACCESS = _entries(0, "access-denied", (
    ("access.role", "The caller's role does not allow this.", "Ask an administrator; auditors only read."),
))
# fmt: on

ENTRIES: tuple[CatalogueEntry, ...] = (
    *_CHALLENGE, *_KEY, *_ANSWER, *_REQUEST, *_ENVELOPE, *_CBOR, *_TOKEN, *_PLATFORM, *_LOG, *_PLAN, *_RIM, *_BOOT, *_TREE, *_REM, *_POLICY, *_IMAGE, *_SOURCE, *_ENDORSEMENT,
    *_UNKNOWN, *_CONFLICT, *_DOCUMENT, *_ACCESS,
)  # fmt: skip
CATALOGUE = MappingProxyType({entry.id: entry for entry in ENTRIES})
"""Every finding id with its entry."""
if len(CATALOGUE) != len(ENTRIES):
    raise RuntimeError("a finding id stands twice in the catalogue")
