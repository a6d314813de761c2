"""Types of the options of ``kbs-rim simulate``, and its list of lies."""

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kbs_rim.realm.cc_log_lies import BootLie
    from kbs_rim.realm.lies import Lie

_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class MemorySize(click.ParamType[int]):
    """A size as VMMs take it: a number with K, M or G, MiB without."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is no size such as 512M or 2G", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


class HexBytes(click.ParamType[bytes]):
    """Bytes in hex."""

    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        try:
            return bytes.fromhex(value)
        except ValueError:
            self.fail(f"{value!r} is not hex", param, ctx)


class Extend(click.ParamType[tuple[int, bytes]]):
    """``INDEX=HEX`` with the RSI index 1 to 4 of REM0 to REM3."""

    name = "index=hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, bytes]:
        match = re.fullmatch(r"([1-4])=((?:[0-9A-Fa-f]{2}){0,64})", str(value))
        if match is None:
            self.fail("write INDEX=HEX with an index from 1 (REM0) to 4 (REM3) and at most 64 bytes", param, ctx)
        return int(match[1]), bytes.fromhex(match[2])


class LieName(click.ParamType["Lie | BootLie"]):
    """The name of a lie, of the host or about a measured boot; the lists are loaded when they are needed."""

    name = "lie"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Lie | BootLie":
        from kbs_rim.realm.cc_log_lies import BootLie
        from kbs_rim.realm.lies import Lie

        if value not in {*Lie, *BootLie}:
            self.fail(f"unknown lie {value!r}; --list-lies shows them", param, ctx)
        return Lie(value) if value in set(Lie) else BootLie(value)


def list_lies(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """Print every lie with what a broker should find, and exit: a callback of ``--list-lies``."""
    if not wanted or ctx.resilient_parsing:
        return
    from kbs_rim.realm.cc_log_lies import BOOT_LIES
    from kbs_rim.realm.lies import LIES

    told = [(lie.value, item.about, item.findings) for lie, item in LIES.items()]
    told += [(lie.value, item.about, item.findings) for lie, item in BOOT_LIES.items()]
    for name, about, findings in told:
        click.echo(f"{name:28} {about}")
        click.echo(f"{'':28} expected: {', '.join(sorted(findings))}")
    ctx.exit()
