"""Rule packs: which nodes the device trees of one VMM have, and which values their properties may take. Data, not code.

A pack is a TOML file (``config/tree_rules/``); this reads its parsed form. Default is deny: a node or property that the pack does not
mention is refused. In the last part of a path ``<hex>`` stands for an address and ``<dec>`` for a number, both without leading zeros.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from kbs_rim.appraisal.document_problems import document_problems
from kbs_rim.appraisal.tree_value_rules import Label, Strict, ValueRule, labels_in
from kbs_rim.errors import InvalidDocument

PACK_NAME = r"^[a-z0-9][a-z0-9.-]{0,63}$"
_PATH = re.compile(r"(?:/[A-Za-z0-9,._+-]+(?:<dec>)?(?:@(?:[A-Za-z0-9,._+-]+|<hex>|<dec>))?)+")
_PLACEHOLDERS = {"<hex>": "(?:0|[1-9a-f][0-9a-f]{0,15})", "<dec>": "(?:0|[1-9][0-9]{0,3})"}
_MOST_NODES = 1024


class _NodeEntry(Strict):
    """``least`` and ``most`` count the nodes of this name below one parent; ``must`` are properties that have to be there."""

    path: str
    label: Label | None = None
    least: int = Field(0, ge=0, le=_MOST_NODES)
    most: int = Field(1, ge=1, le=_MOST_NODES)
    must: dict[str, ValueRule] = Field(default_factory=dict)
    may: dict[str, ValueRule] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.path != "/" and not _PATH.fullmatch(self.path):
            raise ValueError(f"{self.path!r} is not the path of a node")
        if twice := self.must.keys() & self.may.keys():
            raise ValueError(f"{', '.join(sorted(twice))} stands in must and in may")
        if self.least > self.most:
            raise ValueError("least is larger than most")
        return self


class _PackDocument(Strict):
    name: Annotated[str, StringConstraints(pattern=PACK_NAME)]
    version: int = Field(ge=1)
    description: Annotated[str, StringConstraints(max_length=1000)] = ""
    nodes: Annotated[tuple[_NodeEntry, ...], Field(min_length=1, max_length=500)]


@dataclass(frozen=True, slots=True)
class NodeRule:
    """What one kind of node may look like. ``children`` are keyed by name or, for a name with a placeholder, by its pattern."""

    path: str
    label: str | None
    least: int
    most: int
    must: Mapping[str, ValueRule]
    may: Mapping[str, ValueRule]
    named: dict[str, "NodeRule"] = field(default_factory=dict)
    patterns: list[tuple[re.Pattern[str], "NodeRule"]] = field(default_factory=list)

    def child(self, name: str) -> "NodeRule | None":
        """Return the rule for a child of this name."""
        found = self.named.get(name)
        return found or next((rule for pattern, rule in self.patterns if pattern.fullmatch(name)), None)

    @property
    def children(self) -> tuple["NodeRule", ...]:
        """Every rule one level below."""
        return (*self.named.values(), *(rule for _, rule in self.patterns))


@dataclass(frozen=True, slots=True)
class RulePack:
    """A pack, ready to judge with. ``digest`` is the SHA-256, in hex, of the document it was read from."""

    name: str
    version: int
    description: str
    root: NodeRule
    digest: str


def parse_rule_pack(document: Any) -> RulePack:
    """Read a pack from the parsed form of its TOML file; raise ``InvalidDocument`` (``document.tree-rules``) naming every wrong key."""
    try:
        pack = _PackDocument.model_validate(document)
    except ValidationError as error:
        problems = document_problems(error, document, _PackDocument, whole="pack")
        raise _invalid(f"the rule pack is not valid: {problems}") from None
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return RulePack(pack.name, pack.version, pack.description, _tree_of(pack.nodes), digest)


def _tree_of(entries: tuple[_NodeEntry, ...]) -> NodeRule:
    """Hang each node below its parent; check what one entry cannot see."""
    rules: dict[str, NodeRule] = {}
    for entry in sorted(entries, key=lambda entry: (entry.path != "/", entry.path.count("/"))):
        if entry.path in rules:
            raise _invalid(f"two rules are for {entry.path}")
        rule = NodeRule(entry.path, entry.label, entry.least, entry.most, entry.must, entry.may)
        rules[entry.path] = rule
        if entry.path == "/":
            continue
        above, _, name = entry.path.rpartition("/")
        parent = rules.get(above or "/")
        if parent is None:
            raise _invalid(f"{entry.path} has no rule for the node above it")
        if "<" in name:
            parent.patterns.append((re.compile("".join(_regex_parts(name))), rule))
        elif entry.most > 1:
            raise _invalid(f"there is at most one {entry.path}: its name has no placeholder")
        else:
            parent.named[name] = rule
    if "/" not in rules:
        raise _invalid("there is no rule for the root")
    _check_labels(rules.values())
    return rules["/"]


def _regex_parts(name: str) -> Iterator[str]:
    for part in re.split(r"(<\w+>)", name):
        yield _PLACEHOLDERS.get(part) or re.escape(part)


def _check_labels(rules: Collection[NodeRule]) -> None:
    labels = {rule.label for rule in rules}
    for rule in rules:
        for name, value in (*rule.must.items(), *rule.may.items()):
            for label in labels_in(value):
                if label not in labels:
                    raise _invalid(f"{rule.path} {name} names the label {label}, which no node has")


def _invalid(message: str) -> InvalidDocument:
    return InvalidDocument("document.tree-rules", message)
