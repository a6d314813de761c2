"""Configuration: TOML file, drop-ins and environment become one frozen ``Settings``; unknown keys are errors.

Precedence, lowest first: the defaults of ``settings``, ``kbs_rim.toml``, ``kbs_rim.d/*.toml`` beside it in the order of their names,
``KBS_RIM__SECTION__KEY`` in the environment.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from kbs_rim.errors import ConfigurationError
from kbs_rim.settings import Settings

DEFAULT_PATH = Path("/etc/kbs_rim/kbs_rim.toml")
PATH_VARIABLE = "KBS_RIM_CONFIG"
ENVIRONMENT_PREFIX = "KBS_RIM__"
OTHER_VARIABLES = frozenset({PATH_VARIABLE, "KBS_RIM_URL", "KBS_RIM_TOKEN", "KBS_RIM_TOKEN_FILE", "KBS_RIM_CA_FILE"})
"""Names with another purpose: where to read this, and the administrator's client. So has ``KBS_RIM_TEST_*``; the rest is a mistake."""


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
