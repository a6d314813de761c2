"""Configuration: TOML file, drop-ins and environment become one frozen ``Settings``; unknown keys are errors.

Precedence, lowest first: the defaults below, ``kbs_rim.toml``, ``kbs_rim.d/*.toml`` beside it in the order of their names,
``KBS_RIM__SECTION__KEY`` in the environment. What each option is for stands in ``config/kbs_rim.toml``, which a test holds against
the fields below. Secrets are given as files; the one option that may carry one (``database.url``) is masked wherever it is shown.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer, model_validator

from kbs_rim.errors import ConfigurationError
from kbs_rim.limits import Limits

DEFAULT_PATH = Path("/etc/kbs_rim/kbs_rim.toml")
PATH_VARIABLE = "KBS_RIM_CONFIG"
ENVIRONMENT_PREFIX = "KBS_RIM__"
OTHER_VARIABLES = frozenset({PATH_VARIABLE, "KBS_RIM_URL", "KBS_RIM_TOKEN", "KBS_RIM_TOKEN_FILE", "KBS_RIM_CA_FILE"})
"""Names with another purpose: where to read this, and the administrator's client. So has ``KBS_RIM_TEST_*``; the rest is a mistake."""
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

    workers: int = Field(2, ge=1, le=256)
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


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings with where they came from. ``origins`` maps a dotted key to its file or variable; a missing key is a default."""

    settings: Settings
    origins: Mapping[str, str]
    files: tuple[Path, ...]


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> LoadedSettings:
    """Read the configuration.

    ``path`` wins over ``KBS_RIM_CONFIG``, which wins over ``/etc/kbs_rim/kbs_rim.toml``; only the last may be missing.
    Raises ``ConfigurationError`` with one sentence that names key, origin and, for an unknown key, the nearest known one.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
    main = named or DEFAULT_PATH
    drop_ins = sorted((main.parent / f"{main.stem}.d").glob("*.toml"))
    files = ((main,) if named or main.exists() else ()) + tuple(drop_ins)
    known = dict(_leaves(Settings))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for file in files:
        _merge(merged, origins, _known_values(_read_toml(file), known, str(file)), str(file))
    for variable in sorted(name for name in environ if re.match("KBS_RIM_(?!TEST_)", name) and name not in OTHER_VARIABLES):
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if key not in known or not variable.startswith(ENVIRONMENT_PREFIX):
            raise _unknown(key, known, f"environment variable {variable}", show=_as_variable)
        _merge(merged, origins, {key: _parse_text(environ[variable], known[key], variable)}, f"environment variable {variable}")
    return LoadedSettings(_validate(merged, origins), origins, files)


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


def _leaves(model: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and annotation of every option below a model or dataclass."""
    annotations = (
        {item.name: item.type for item in fields(model)}
        if is_dataclass(model)
        else {name: item.annotation for name, item in model.model_fields.items()}
    )
    for name, annotation in annotations.items():
        if isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, BaseModel)):
            yield from _leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", annotation


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # tomllib lets both out, for numbers of thousands of digits and for deep nesting
        raise ConfigurationError(f"{path} is not TOML: {error}") from error


def _known_values(table: Mapping[str, Any], known: Mapping[str, Any], origin: str, prefix: str = "") -> dict[str, Any]:
    """Flatten a TOML document to dotted keys, refusing those that name no option."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in known:
            found[key] = value
        elif not any(other.startswith(f"{key}.") for other in known):
            raise _unknown(key, known, origin)
        elif not isinstance(value, dict):
            raise ConfigurationError(f"{origin}: {key} is a table: write [{key}]")
        else:
            found.update(_known_values(value, known, origin, f"{key}."))
    return found


def _as_variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "__")


def _unknown(key: str, known: Mapping[str, Any], origin: str, show: Callable[[str], str] = str) -> ConfigurationError:
    key = key[:100]  # the longest known one has 40 characters
    nearest = difflib.get_close_matches(key, [*known, *{other.rpartition(".")[0] for other in known}], n=1, cutoff=0.5)
    hint = f"; did you mean {show(nearest[0])}?" if nearest else ""
    return ConfigurationError(f"{origin}: unknown key {key}{hint}")


def _takes_text(annotation: Any) -> bool:
    if annotation in {str, Path, SecretStr, NoneType} or isinstance(annotation, str):
        return True
    alternatives = get_args(annotation)[:1] if hasattr(annotation, "__metadata__") else get_args(annotation)
    return bool(alternatives) and get_origin(annotation) is not tuple and all(map(_takes_text, alternatives))


def _parse_text(text: str, annotation: Any, variable: str) -> Any:
    """A value from the environment: text as it is where the option takes text, otherwise written as in TOML."""
    if _takes_text(annotation):
        return text
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        document = {}
    if document.keys() != {"value"}:
        raise ConfigurationError(f'environment variable {variable}: write the value as in TOML, for instance 5, true or ["a", "b"]')
    return document["value"]


def _merge(merged: dict[str, Any], origins: dict[str, str], values: Mapping[str, Any], origin: str) -> None:
    """Lay ``values`` (dotted keys) over what came before; arrays are replaced, not joined."""
    for key, value in values.items():
        *sections, name = key.split(".")
        table = merged
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
        origins[key] = origin


def _validate(merged: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    try:
        # JSON mode: strict about types, yet text may become a path and an array a tuple
        return Settings.model_validate_json(json.dumps(merged))
    except ValidationError as error:
        messages = []
        for item in error.errors(include_url=False, include_input=False, include_context=False):
            parts = [str(part) for part in item["loc"]]
            origin = next((origins[key] for key in origins if key.split(".") == parts[: key.count(".") + 1]), None)
            origin = origin or next((source for key, source in origins.items() if key.split(".")[: len(parts)] == parts), "defaults")
            messages.append(f"{origin}: {'.'.join(parts)}: {item['msg'].removeprefix('Value error, ')}")
        raise ConfigurationError("; ".join(messages)) from None
    except (TypeError, ValueError):
        raise ConfigurationError("the configuration holds a date, a time or a number of thousands of digits; no option takes one") from None
