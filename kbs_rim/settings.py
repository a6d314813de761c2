"""The settings of one process: every option with its type, default and bounds, frozen.

What each option is for stands in ``config/kbs_rim.toml``, which a test holds against the fields below; ``config`` reads them from
files and environment. Secrets are given as files; the one option that may carry one (``database.url``) is masked wherever it is shown.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_serializer, model_validator

from kbs_rim.errors import ConfigurationError
from kbs_rim.limits import Limits

_MASK = "********"
_SECRET_FILE_BYTES = 64 * 1024


def _listen_address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ValueError("write HOST:PORT, for instance 127.0.0.1:8088 or [::1]:8088")
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username or parts.port == 0:
        raise ValueError("write http://HOST[:PORT][/PATH] or https://..., without user, query or fragment")
    return value.rstrip("/")


def _database_url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
    except ValueError:
        raise ValueError("this is not a URL") from None  # urlsplit's own message quotes the password
    if parts.scheme.partition("+")[0] not in {"sqlite", "postgresql"}:
        raise ValueError("write sqlite:////absolute/path or postgresql://USER@HOST/DATABASE")
    if "password" in parse_qs(parts.query):
        raise ValueError("a password does not belong into the query: use database.password_file")
    return value


ListenAddress = Annotated[str, AfterValidator(_listen_address)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
SignatureAlgorithm = Literal["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ServiceSettings(_Section):
    """``[service]``: the process itself. Durations in seconds."""

    name: str = Field("kbs_rim", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    test_mode: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    shutdown_timeout_s: int = Field(20, ge=1, le=600)


class ListenerSettings(_Section):
    """One listening socket. ``listen`` is HOST:PORT; port 0 takes a free one."""

    listen: ListenAddress
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host (without brackets) and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file are given together or not at all")
        return self


class GuestListenerSettings(ListenerSettings):
    """``[http.guest]``: what realms talk to."""

    listen: ListenAddress = "127.0.0.1:8088"
    public_url: HttpUrl | None = None


class InternalListenerSettings(ListenerSettings):
    """``[http.internal]``: administration, audit, health and metrics; never reachable by guests."""

    listen: ListenAddress = "127.0.0.1:8089"


class HttpSettings(_Section):
    """``[http.*]``: the two listeners."""

    guest: GuestListenerSettings = GuestListenerSettings()
    internal: InternalListenerSettings = InternalListenerSettings()


class DatabaseSettings(_Section):
    """``[database]``. ``url`` may carry a password; it never leaves this object unmasked but through ``resolved_url``."""

    url: DatabaseUrl = SecretStr("sqlite:////var/lib/kbs_rim/kbs_rim.db")
    url_file: Path | None = None
    password_file: Path | None = None
    pool_size: int = Field(5, ge=1, le=200)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.url_file is not None and ("url" in self.model_fields_set or self.password_file is not None):
            raise ValueError("url_file holds the whole URL: leave out url and password_file")
        return self

    @field_serializer("url")
    def _masked_url(self, value: SecretStr) -> str:
        parts = urlsplit(value.get_secret_value())
        if parts.password is None:
            return value.get_secret_value()
        user, _, host = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{_MASK}@{host}"))

    def resolved_url(self) -> SecretStr:
        """The URL to connect with, its password filled in from the files. Raises ``ConfigurationError``."""
        if self.url_file is not None:
            try:
                return _database_url(SecretStr(read_secret_file(self.url_file, "database.url_file")))
            except ValueError as error:
                raise ConfigurationError(f"database.url_file: {error}") from None
        if self.password_file is None:
            return self.url
        parts = urlsplit(self.url.get_secret_value())
        if parts.scheme.startswith("sqlite") or not parts.username or parts.password is not None:
            raise ConfigurationError("database.password_file needs a database.url of the form postgresql://USER@HOST/DATABASE")
        password = quote(read_secret_file(self.password_file, "database.password_file"), safe="")
        host = parts.netloc.rpartition("@")[2]
        return SecretStr(urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}:{password}@{host}")))


class ChallengeSettings(_Section):
    """``[challenge]``: how long a guest may take between its two requests, in seconds, and how many may be between them."""

    lifetime_s: int = Field(120, ge=5, le=900)
    max_outstanding: int = Field(20_000, ge=1, le=1_000_000)


class SecretsSettings(_Section):
    """``[secrets]``: how secrets are kept and to which keys they may be sealed."""

    kek_file: Path | None = None
    previous_kek_files: tuple[Path, ...] = ()
    legacy_rsa1_5: bool = False


class VerifierSettings(_Section):
    """``[verifier]``: the external platform verifier and what is demanded of its results. Durations in seconds."""

    url: HttpUrl = "http://127.0.0.1:8090"
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    authorization_file: Path | None = None
    media_type: str | None = Field(None, min_length=3, max_length=256)
    deadline_s: float = Field(10.0, gt=0, le=120)
    pinned_keys_files: tuple[Path, ...] = ()
    trust_discovery_key: bool = False
    allow_published_keys: bool = False
    algorithms: tuple[SignatureAlgorithm, ...] = Field(("ES256",), min_length=1)
    profiles: tuple[str, ...] = Field(("tag:github.com,2023:veraison/ear",), min_length=1)
    developer: str | None = None
    appraisal_policy_ids: tuple[str, ...] = ()
    max_age_s: int = Field(300, ge=1, le=86400)
    skew_s: int = Field(60, ge=0, le=600)
    realm_statuses: tuple[Literal["affirming", "warning"], ...] = Field(("affirming", "warning"), min_length=1)

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.client_certificate_file is None) != (self.client_key_file is None):
            raise ValueError("client_certificate_file and client_key_file are given together or not at all")
        return self


class AppraisalSettings(_Section):
    """``[appraisal]``: how much is appraised at once, and what is kept."""

    workers: int = Field(0, ge=0, le=256)
    kernel: Literal["auto", "native", "pure"] = "auto"
    max_concurrent: int = Field(16, ge=1, le=4096)
    keep_payloads: bool = True
    tree_rules_directory: Path | None = None


class Settings(_Section):
    """The whole configuration of one process. ``Settings()`` gives the defaults."""

    service: ServiceSettings = ServiceSettings()
    http: HttpSettings = HttpSettings()
    database: DatabaseSettings = DatabaseSettings()
    challenge: ChallengeSettings = ChallengeSettings()
    secrets: SecretsSettings = SecretsSettings()
    verifier: VerifierSettings = VerifierSettings()
    appraisal: AppraisalSettings = AppraisalSettings()
    limits: Limits = Limits()

    def document(self) -> dict[str, Any]:
        """Every effective value, as JSON types, with secrets masked."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """SHA-256, in hex, over the canonical JSON of ``document()``: secrets and the contents of files are left out."""
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def serving_problems(self) -> list[str]:
        """What keeps a broker with this configuration from serving: one sentence each, empty if nothing does."""
        problems = []
        verifier = self.verifier
        if self.secrets.kek_file is None:
            problems.append("secrets.kek_file is not set: without a key-encryption key no secret can be read")
        if not verifier.pinned_keys_files and not verifier.trust_discovery_key:
            problems.append("verifier.pinned_keys_files is empty and verifier.trust_discovery_key is off: no result could be believed")
        if verifier.allow_published_keys and not self.service.test_mode:
            problems.append("verifier.allow_published_keys is for tests: it needs service.test_mode")
        if verifier.trust_discovery_key and verifier.url.startswith("http://") and not self.service.test_mode:
            problems.append("verifier.trust_discovery_key over http:// lets anybody on the path sign results: use https:// or pin keys")
        return problems

    def warnings(self) -> list[str]:
        """Choices that are allowed and that an operator should see at every start: one sentence each."""
        found = []
        if self.service.test_mode:
            found.append("service.test_mode is on: published test keys are accepted, nothing released here is protected")
        if self.secrets.legacy_rsa1_5:
            found.append("secrets.legacy_rsa1_5 is on: secrets may be sealed with RSA PKCS #1 v1.5, which a padding oracle opens")
        if not self.http.internal.listen.startswith(("127.", "[::1]", "localhost")) and self.http.internal.tls_certificate_file is None:
            found.append("http.internal listens beyond loopback without TLS: bearer tokens cross the network in the clear")
        return found


def read_secret_file(path: Path, option: str) -> str:
    """The text of a secret file without its final newline; raises ``ConfigurationError`` that names ``option``, never the content."""
    try:
        with path.open("rb") as file:
            data = file.read(_SECRET_FILE_BYTES + 1)
        text = data.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(f"{option}: {path} cannot be read: {error.strerror}") from error
    except ValueError:
        raise ConfigurationError(f"{option}: {path} is not the path of a text file") from None
    if text and len(data) <= _SECRET_FILE_BYTES:
        return text
    raise ConfigurationError(f"{option}: {path} is {'too large' if text else 'empty'}")
