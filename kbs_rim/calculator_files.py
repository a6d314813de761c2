"""Files that a calculator reads beside images: host capabilities and VMM profiles, those that ship with kbs_rim and one's own.

``config/host_capabilities`` and ``config/vmm_profiles`` stand at the top of the repository and are installed inside the package.
"""

import tomllib
from functools import reduce
from pathlib import Path
from typing import Any

import kbs_rim
from kbs_rim.errors import ConfigurationError
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities, parse_host_capabilities
from kbs_rim.measurement.vmm.profile_document import parse_profile
from kbs_rim.measurement.vmm.shipped_profiles import SHIPPED
from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

_MOST_BYTES = 256 * 1024
_HOSTS, _PROFILES = "host_capabilities", "vmm_profiles"


def load_host_capabilities(name: str) -> HostCapabilities:
    """Return the capabilities of a shipped host (``fvp``), of a file, or of parts of one host (``fvp+kvm``): the lower of each value.

    Raises ``ConfigurationError`` if there is neither, or it is not TOML; ``InvalidDocument`` (``document.host``) for a wrong key or value.
    """
    parts = (name,) if Path(name).is_file() else name.split("+")
    known = [parse_host_capabilities(_read(_find(part, _HOSTS, shipped_hosts()))) for part in parts]
    return reduce(HostCapabilities.restricted_by, known)


def load_vmm_profile(name: str) -> VmmProfile:
    """Return a profile by its name, or from a file. Errors as for hosts, with ``document.vmm-profile``."""
    if name in SHIPPED:
        return SHIPPED[name]
    return parse_profile(_read(_find(name, _PROFILES, shipped_profiles())))


def shipped_hosts() -> tuple[str, ...]:
    """Names of the hosts that ship with kbs_rim."""
    return tuple(sorted(file.stem for file in _directory(_HOSTS).glob("*.toml")))


def shipped_profiles() -> tuple[str, ...]:
    """Names of the profiles that ship with kbs_rim."""
    return (*SHIPPED, *sorted(file.stem for file in _directory(_PROFILES).glob("*.toml")))


def _directory(name: str, package: Path | None = None) -> Path:
    package = package or Path(kbs_rim.__file__).parent
    for candidate in (package / f"_{name}", package.parent / "config" / name):
        if candidate.is_dir():
            return candidate
    raise ConfigurationError(f"the {name.replace('_', ' ')} are missing from this installation: install the wheel again")


def _find(name: str, kind: str, shipped: tuple[str, ...]) -> Path:
    """A shipped name wins, so that a file of that name in the current folder changes nothing; ./NAME means the file."""
    if name in shipped:
        return _directory(kind) / f"{name}.toml"
    file = Path(name)
    if not file.is_file():
        raise ConfigurationError(f"{name} is neither a file nor one of {', '.join(shipped)}")
    return file


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigurationError(f"{file} is larger than such a file can be")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error
