"""Keys that anybody can sign with are recognised, in every form they come in."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from joserfc.jwk import ECKey

from kbs_rim.appraisal.published_keys import PUBLISHED_KEYS, is_published, thumbprint

KEYS = Path(__file__).parent.parent / "vectors" / "tokens" / "keys"
ELSEWHERE = {
    "Veraison's RAK": (
        "P-384",
        "gvvRMqm1w5aHn7sVNA2QUJeOVcedUnmiug6VhU834gzS9k87crVwu9dz7uLOdoQl",
        "7fVF7b6J_6_g6Wu9RuJw8geWxEi5ja9Gp2TSdELm5u2E-M7IF-bsxqcdOj3n1n7N",
    ),
    "quick deployment EAR key": ("P-256", "usWxHK2PmfnHKwXPS54m0kTcGJ90UiglWiGahtagnv8", "IBOL-C3BttVivg-lSreASjpkttcsz-1rb7btKLv8EX4"),
    "CoSERV signer": ("P-256", "z0tNsgUHK1TZC329jqr33s_Guafq1kD-SjAVwljBB8Y", "XIrVm-N3_yWsZCtwwaPVQa6r8SkRdBtySo6XhXZ0-FI"),
    "CoRIM end entity": ("P-256", "lqFnCyw9ZxzVT4DVVqO4MZnU1iZGa3izmhCSOwb1FW0", "ZTy7OdHPXZiHtFCBLtJo1oEOuktURxrKCEdOWfyTF5o"),
}
"""Public halves of keys that stand, with their private halves, in Veraison's repositories."""


@pytest.mark.parametrize("path", sorted(KEYS.glob("*.pem")), ids=lambda path: path.stem)
def test_the_keys_beside_the_sample_tokens(path):
    key = load_pem_public_key(path.read_bytes())
    jwk = ECKey.import_key(json.loads(path.with_suffix(".jwk").read_text()))
    assert is_published(key) is not None
    assert thumbprint(key) == jwk.thumbprint()
    assert is_published(jwk.thumbprint()) == is_published(key)


@pytest.mark.parametrize(("curve", "x", "y"), ELSEWHERE.values(), ids=list(ELSEWHERE))
def test_keys_published_elsewhere(curve, x, y):
    jwk = ECKey.import_key({"kty": "EC", "crv": curve, "x": x, "y": y})
    assert is_published(jwk.thumbprint()) is not None
    assert is_published(jwk.public_key) is not None


def test_the_quick_deployment_key_by_its_thumbprint():
    assert is_published("xNnfOFTMgZSRM3KtGHQqavZGWGF00Fe54LZBYCIxr88") is not None


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1, ec.SECP256K1])
def test_a_key_of_ones_own_is_not_published(curve):
    key = ec.generate_private_key(curve()).public_key()
    assert is_published(key) is None


def test_another_curve_has_no_thumbprint():
    with pytest.raises(ValueError, match="no JWK curve name"):
        thumbprint(ec.generate_private_key(ec.SECP256K1()).public_key())


def test_every_entry_is_a_thumbprint():
    assert all(len(name) == 43 and title for name, title in PUBLISHED_KEYS.items())
