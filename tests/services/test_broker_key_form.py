"""What a guest says about its key survives from the challenge to the release: the form of sealing is the guest's choice."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kbs_rim.appraisal.attestation_result import EarPolicy
from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.sealing.guest_key import SealingAlgorithm, commitment, guest_key_of, parse_guest_key
from kbs_rim.services.broker import Broker, BrokerPolicy, BrokerStores
from tests.registry_values import SettableClock


class _Challenges:
    def __init__(self):
        self.issued = []

    async def issue(self, challenge):
        self.issued.append(challenge)


def _broker(challenges):
    policy = BrokerPolicy(
        ear_policy=EarPolicy(trust_discovery=True), limits=DEFAULT_LIMITS, challenge_lifetime=timedelta(seconds=9), allow_rsa1_5=True
    )
    nothing = SimpleNamespace()
    stores = BrokerStores(trust=nothing, images=nothing, challenges=challenges, records=nothing)
    return Broker(stores=stores, vault=nothing, verifier=nothing, policy=policy, clock=SettableClock(), entropy=bytes)


RSA_KEY, EC_KEY = rsa.generate_private_key(65537, 2048).public_key(), ec.generate_private_key(ec.SECP256R1()).public_key()


@pytest.mark.parametrize(
    ("public_key", "algorithm"),
    [(RSA_KEY, algorithm) for algorithm in SealingAlgorithm if algorithm is not SealingAlgorithm.ECDH_ES_A256KW]
    + [(EC_KEY, SealingAlgorithm.ECDH_ES_A256KW)],
    ids=lambda value: value.value if isinstance(value, SealingAlgorithm) else type(value).__name__,
)
async def test_the_challenge_keeps_the_algorithm_that_the_guest_asked_for(public_key, algorithm):
    challenges = _Challenges()
    asked = guest_key_of(public_key, algorithm)
    challenge = await _broker(challenges).issue_challenge("web/luks/root", asked.to_jwk())
    stored = parse_guest_key(challenges.issued[0].jwk, allow_rsa1_5=True)
    assert stored.algorithm is algorithm
    assert challenge.value == commitment(challenge.salt, stored.thumbprint)


def test_an_unknown_secret_looks_like_one_that_nobody_may_have():
    """The guest is told the code of the earliest step, and a name must not be told to evidence that is not in order."""
    assert CATALOGUE["request.secret-unknown"].code == CATALOGUE["policy.no-workload"].code
    assert CATALOGUE["request.secret-unknown"].step == CATALOGUE["policy.no-workload"].step == max(item.step for item in CATALOGUE.values())
