"""Rule packs for device trees, read from files: those that ship with kbs_rim, and an operator's own.

``config/tree_rules/`` stands at the top of the repository and is installed as ``kbs_rim/_tree_rules``. What a pack means is in
``kbs_rim.appraisal.tree_pack``; a broker reads all of them once, when it starts.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import kbs_rim
from kbs_rim.appraisal.tree_pack import RulePack, parse_rule_pack
from kbs_rim.errors import ConfigurationError, InvalidDocument

_MOST_BYTES = 1024 * 1024


def shipped_directory(package: Path | None = None) -> Path:
    """Return where the shipped packs are: in the installed package, else beside it in the checkout.

    Raises ``ConfigurationError`` if the installation lacks them.
    """
    package = package or Path(kbs_rim.__file__).parent
    for candidate in (package / "_tree_rules", package.parent / "config" / "tree_rules"):
        if (candidate / "qemu-virt.toml").is_file():
            return candidate
    raise ConfigurationError("the rule packs for device trees are missing from this installation: install the wheel again")


def load_rule_packs(own: Path | None = None) -> Mapping[str, RulePack]:
    """Return every pack by its name: the shipped ones, and those in the directory ``own``, which may replace none of them.

    Raises ``ConfigurationError`` that names the file.
    """
    packs: dict[str, RulePack] = {}
    for file in (*_files(shipped_directory()), *(_files(own) if own is not None else ())):
        pack = read_rule_pack(file)
        if pack.name in packs:
            raise ConfigurationError(f"{file}: there is a rule pack {pack.name} already; packs of your own need names of their own")
        packs[pack.name] = pack
    return packs


def read_rule_pack(file: Path) -> RulePack:
    """Read one pack; raise ``ConfigurationError`` that names the file."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigurationError(f"{file} is larger than a rule pack can be")
        return parse_rule_pack(tomllib.loads(data.decode()))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except InvalidDocument as error:
        raise ConfigurationError(f"{file}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error


def _files(directory: Path) -> Iterator[Path]:
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not a directory of rule packs")
    yield from sorted(directory.glob("*.toml"))
