"""The Protocols between services and the world, with the values that cross them; one module for each subject.

Each role has its own storage type: a service that may only read records cannot even name the call that writes them
(boulder's ``sa``/``saro``). Promises stand here, transport stands in the adapters. Every method may raise
``StoreUnavailable``; other errors are named. All times are aware UTC. All methods that write are one transaction each.
"""

from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.ports.challenges import Challenge, ChallengeOutcome, ChallengeStore
from kbs_rim.ports.clock import Clock
from kbs_rim.ports.health import Health
from kbs_rim.ports.images import FurtherProvenance, ImageReader, ImageRecord, ImageWriter, MeasuredImage, Registration
from kbs_rim.ports.principals import Principal, PrincipalRole, PrincipalStore
from kbs_rim.ports.records import AppraisalFilter, RecordReader, RecordWriter
from kbs_rim.ports.secrets import KeyEncryptionKey, SealedVersion, SecretInfo, SecretOpener, SecretReader, SecretVersionInfo, SecretWriter
from kbs_rim.ports.trust import TrustReader, TrustView
from kbs_rim.ports.verifier import PlatformVerifier, VerifierAnswer
from kbs_rim.ports.workloads import WorkloadReader, WorkloadRecord, WorkloadWriter

__all__ = [
    "AppraisalFilter",
    "Challenge",
    "ChallengeOutcome",
    "ChallengeStore",
    "Clock",
    "FurtherProvenance",
    "Health",
    "ImageReader",
    "ImageRecord",
    "ImageState",
    "ImageWriter",
    "KeyEncryptionKey",
    "MeasuredImage",
    "PlatformVerifier",
    "Principal",
    "PrincipalRole",
    "PrincipalStore",
    "RecordReader",
    "RecordWriter",
    "Registration",
    "SealedVersion",
    "SecretInfo",
    "SecretOpener",
    "SecretReader",
    "SecretVersionInfo",
    "SecretWriter",
    "TrustReader",
    "TrustView",
    "VerifierAnswer",
    "WorkloadReader",
    "WorkloadRecord",
    "WorkloadWriter",
]
