"""A simulated CCA platform: its attestation key (CPAK), its identity, its firmware, and what its maker endorses.

The private key is generated here and stays in one file with mode 0600. Endorsements are what a platform verifier needs:
the trust anchor and the reference values (draft-ydb-rats-cca-endorsements).
"""

import hashlib
import json
import os
from base64 import b64encode, urlsafe_b64encode
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import cbor2
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.errors import InvalidDocument

LIFECYCLE_SECURED, LIFECYCLE_RMM_DEBUG = 0x3003, 0x4003
PLATFORM_CORIM_PROFILE = "tag:arm.com,2025:cca_platform#1.0.0"
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384"}
_FORMAT = "kbs-rim simulated platform v1"
_HEX_MEMBERS = ("implementation_id", "instance_id", "config")
_NAMED_INFORMATION = {32: 1, 48: 7, 64: 8}
_TAG_URI, _TAG_CORIM, _TAG_COMID, _TAG_UEID, _TAG_PKIX, _TAG_BYTES = 32, 501, 506, 550, 554, 560


@dataclass(frozen=True, slots=True)
class Component:
    """One firmware component of the platform token."""

    name: str
    measurement: bytes
    signer_id: bytes
    version: str


@dataclass(frozen=True, slots=True)
class PlatformIdentity:
    """One platform. ``implementation_id`` has 32 bytes, ``instance_id`` (a UEID) 33 with 0x01 in front."""

    cpak: ec.EllipticCurvePrivateKey = field(repr=False)
    implementation_id: bytes
    instance_id: bytes
    config: bytes
    components: tuple[Component, ...]
    lifecycle: int = LIFECYCLE_SECURED

    @classmethod
    def generate(cls, curve: str = "P-384", model: str = "simulated platform") -> "PlatformIdentity":
        """Make a new platform of a ``model``; all platforms of one model have the same firmware and implementation id."""
        cpak = ec.generate_private_key(_CURVES[curve])
        spki = cpak.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        signer = _digest(model, "firmware signer")
        names = (("RSE_BL1_2", "1.0.0"), ("RSE_BL2", "2.1.0"), ("AP_BL1", "2.12.0"), ("AP_BL2", "2.12.0"), ("RMM", "0.9.0"))
        components = tuple(Component(name, _digest(model, name, version), signer, version) for name, version in names)
        instance_id = b"\x01" + hashlib.sha256(spki).digest()
        return cls(cpak, _digest(model, "implementation"), instance_id, _digest(model, "configuration"), components)

    def in_debug(self) -> "PlatformIdentity":
        """Return the same platform with its RMM opened for debugging."""
        return replace(self, lifecycle=LIFECYCLE_RMM_DEBUG)

    # --- file -----------------------------------------------------------------------------------------------------------

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form, private key included."""
        pem = self.cpak.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return {
            "format": _FORMAT,
            "cpak": pem.decode(),
            "implementation_id": self.implementation_id.hex(),
            "instance_id": self.instance_id.hex(),
            "config": self.config.hex(),
            "lifecycle": self.lifecycle,
            "components": [
                {"name": part.name, "measurement": part.measurement.hex(), "signer_id": part.signer_id.hex(), "version": part.version}
                for part in self.components
            ],
        }

    @classmethod
    def from_document(cls, document: Any) -> "PlatformIdentity":
        """Read the JSON form; raise ``InvalidDocument``."""
        try:
            if document["format"] != _FORMAT:
                raise ValueError("another format")
            cpak = serialization.load_pem_private_key(document["cpak"].encode(), None)
            if not isinstance(cpak, ec.EllipticCurvePrivateKey) or cpak.curve.name not in _CURVE_NAMES:
                raise ValueError("the key is not a P-256 or P-384 key")
            components = tuple(
                Component(part["name"], bytes.fromhex(part["measurement"]), bytes.fromhex(part["signer_id"]), part["version"])
                for part in document["components"]
            )
            implementation_id, instance_id, config = (bytes.fromhex(document[name]) for name in _HEX_MEMBERS)
            return cls(cpak, implementation_id, instance_id, config, components, int(document["lifecycle"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidDocument("document.platform", f"not a simulated platform: {type(error).__name__}") from None

    def save(self, path: Path) -> None:
        """Write a new file that only its owner can read; raise ``FileExistsError`` if there is one."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self.to_document(), file, indent=2)
            file.write("\n")

    @classmethod
    def load(cls, path: Path) -> "PlatformIdentity":
        """Read a file that ``save`` wrote; raise ``InvalidDocument`` or ``OSError``."""
        try:
            document = json.loads(path.read_bytes())
        except ValueError:
            raise InvalidDocument("document.platform", "not JSON") from None
        return cls.from_document(document)

    # --- endorsements ---------------------------------------------------------------------------------------------------

    def public_pem(self) -> str:
        """Return the CPAK's public half as SPKI PEM, without a newline at the end (as CoRIM samples have it)."""
        pem = self.cpak.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return pem.decode().rstrip("\n")

    def public_jwk(self) -> dict[str, str]:
        """Return the CPAK's public half as JWK."""
        numbers = self.cpak.public_key().public_numbers()
        size = (self.cpak.curve.key_size + 7) // 8
        x, y = (urlsafe_b64encode(number.to_bytes(size, "big")).rstrip(b"=").decode() for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": _CURVE_NAMES[self.cpak.curve.name], "x": x, "y": y}

    def trust_anchor_triple(self) -> list[Any]:
        """CoMID attest-key triple: this instance's environment and its key."""
        environment = {0: {0: _tagged(_TAG_BYTES, self.implementation_id)}, 1: _tagged(_TAG_UEID, self.instance_id)}
        return [environment, [_tagged(_TAG_PKIX, self.public_pem())]]

    def reference_value_triple(self) -> list[Any]:
        """CoMID reference-value triple: firmware components and configuration of the whole model."""
        measurements: list[dict[int, Any]] = [
            {
                0: "cca.software-component",
                1: {
                    2: [[_NAMED_INFORMATION[len(part.measurement)], part.measurement]],
                    11: part.name,
                    13: [_tagged(_TAG_BYTES, part.signer_id)],
                },
            }
            for part in self.components
        ]
        mask = b"\xff" * len(self.config)
        measurements.append({0: "cca.platform-config", 1: {4: _tagged(_TAG_BYTES, self.config), 5: mask}})
        return [{0: {0: _tagged(_TAG_BYTES, self.implementation_id)}}, measurements]

    def corim(self, *, trust_anchor: bool = True, reference_values: bool = True) -> bytes:
        """Return an unsigned CoRIM in core deterministic encoding; Veraison wants the two kinds in separate ones.

        Every call makes a new corim-id, since Veraison refuses one that it has seen.
        """
        comids = []
        if reference_values:
            comids.append(_comid({0: [self.reference_value_triple()]}))
        if trust_anchor:
            comids.append(_comid({3: [self.trust_anchor_triple()]}))
        corim = {0: uuid4().bytes, 1: comids, 3: _tagged(_TAG_URI, PLATFORM_CORIM_PROFILE)}
        return _deterministic(_tagged(_TAG_CORIM, corim))

    def comid_json(self) -> dict[str, Any]:
        """Return trust anchor and reference values as a CoMID template in JSON, the form that Veraison's ``cocli`` compiles."""
        class_ = {"id": {"type": "bytes", "value": _base64(self.implementation_id)}}
        measurements: list[dict[str, Any]] = [
            {
                "key": {"type": "string", "value": "cca.software-component"},
                "value": {
                    "digests": [[_NAMED_INFORMATION[len(part.measurement)], _base64(part.measurement).rstrip("=")]],
                    "name": part.name,
                    "cryptokeys": [{"type": "bytes", "value": _base64(part.signer_id)}],
                },
            }
            for part in self.components
        ]
        config = {"type": "bytes", "value": _base64(self.config)}
        mask = _base64(b"\xff" * len(self.config))
        measurements.append(
            {"key": {"type": "string", "value": "cca.platform-config"}, "value": {"raw-value": config, "raw-value-mask": mask}}
        )
        instance = {"type": "ueid", "value": _base64(self.instance_id)}
        key = {"type": "pkix-base64-key", "value": self.public_pem()}
        return {
            "tag-identity": {"id": str(uuid4()), "version": 0},
            "triples": {
                "reference-values": [{"environment": {"class": class_}, "measurements": measurements}],
                "attester-verification-keys": [
                    {"environment": {"class": class_, "instance": instance}, "verification-keys": [key]},
                ],
            },
        }


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _tagged(number: int, value: Any) -> cbor2.CBORTag:
    return cbor2.CBORTag(number, value)


def _comid(triples: dict[int, Any]) -> cbor2.CBORTag:
    return _tagged(_TAG_COMID, _deterministic({0: "en-GB", 1: {0: uuid4().bytes, 1: 0}, 4: triples}))


def _deterministic(value: Any) -> bytes:
    """Encode with map keys in bytewise order. All keys here are small unsigned integers: numeric order is that order."""
    return cbor2.dumps(_ordered(value))


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, _ordered(value.value))
    return value
