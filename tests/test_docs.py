"""The documentation must be true of the code: commands, options, links, ids, tables, examples. A page that drifts fails here."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import click
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel

from kbs_rim import cli
from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.appraisal.workload import Bounds, Workload, parse_workload
from kbs_rim.config import load_settings
from kbs_rim.evidence import base64url
from kbs_rim.evidence.envelope import ACCEPTED_MEDIA_TYPES
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.reference_verifier.faults import Fault
from kbs_rim.sealing.guest_key import commitment, guest_key_of
from kbs_rim.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:docker compose exec [^\n]*?)?(?:[\w./-]*/)?(kbs-rim(?: .*)?)$")
END_OF_COMMAND = re.compile(r"\s(?:\||&&|;|\d?>|#)\s?|;\s|\s{2,}\S|`")


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


class Shown(NamedTuple):
    """A command line as a page shows it, without the prompt."""

    line: str
    where: str


def inline_code(text: str) -> list[str]:
    """What stands between single backticks, outside of blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))


def commands_of(page: Path) -> Iterator[Shown]:
    """Every ``kbs-rim`` command line of a page: in blocks, headings and inline code."""
    text = page.read_text()
    for number, line in enumerate(re.sub(r"[ ]*\\\n\s*", " ", text).splitlines(), 1):
        where = f"{page_id(page)}:~{number}"
        if line.startswith("### kbs-rim"):
            for part in re.split(r", (?=kbs-rim)", line.removeprefix("### ")):
                yield Shown(part, where)
        elif match := COMMAND.match(line.strip()):
            yield Shown(END_OF_COMMAND.split(match[1], maxsplit=1)[0], where)
    for code in inline_code(text):
        if re.match(r"kbs-rim( |$)", code):
            yield Shown(code, page_id(page))


def words_of(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


@cache
def command_tree() -> dict[tuple[str, ...], click.Command]:
    """Every command by its path below ``kbs-rim``."""
    found: dict[tuple[str, ...], click.Command] = {}

    def walk(command: click.Command, path: tuple[str, ...]) -> None:
        found[path] = command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                walk(child, (*path, name))

    walk(cli.root, ())
    return found


def options_of(command: click.Command) -> dict[str, click.Parameter]:
    with click.Context(command, help_option_names=["-h", "--help"]) as context:
        return {name: parameter for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}


def problem_with(line: str) -> str | None:
    """What is wrong with a command line, None if it could be typed."""
    words = words_of(line)[1:]
    path: tuple[str, ...] = ()
    while words and (*path, words[0]) in command_tree():
        path = (*path, words.pop(0))
    command = command_tree()[path]
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        return f"kbs-rim {' '.join(path)} has no command {words[0]!r}"
    for position, word in enumerate(words):
        if word == "--":
            return problem_with("kbs-rim simulate " + shlex.join(words[position + 1 :])) if path == ("guest", "get") else None
        if not re.match(r"--?[a-z]", word):
            continue
        name, _, value = word.partition("=")
        parameter = options_of(command).get(name)
        if parameter is None:
            return f"kbs-rim {' '.join(path)} has no option {name}"
        value = value or next(iter(words[position + 1 :]), "")
        if isinstance(parameter.type, click.Choice) and re.fullmatch(r"[a-z0-9.|-]+", value):
            unknown = set(value.split("|")) - set(parameter.type.choices)
            if unknown:
                return f"{name} does not take {', '.join(sorted(unknown))}"
    return None


# --- commands ---------------------------------------------------------------------------------------------------------


@every_page
def test_every_command_line_could_be_typed(page: Path) -> None:
    assert [f"{shown.where}: {problem}" for shown in commands_of(page) if (problem := problem_with(shown.line))] == []


def test_command_lines_are_found_and_judged() -> None:
    assert len([shown for page in PAGES for shown in commands_of(page)]) > 120
    assert problem_with("kbs-rim image ad linux") == "kbs-rim image has no command 'ad'"
    assert problem_with("kbs-rim log rim LOG --rmm 3.0") == "--rmm does not take 3.0"
    assert problem_with("kbs-rim guest get K --broker U --simulate -- --vmm qemu --kernal x") == "kbs-rim simulate has no option --kernal"
    assert problem_with("kbs-rim log rim LOG --image FILE... --rmm 1.0|2.0") is None


@every_page
def test_options_that_stand_alone_exist_somewhere(page: Path) -> None:
    known = {name for command in command_tree().values() for name in options_of(command)}
    shown = {word.rstrip(",") for code in inline_code(page.read_text()) if code.startswith("--") for word in code.split()}
    assert {word.partition("=")[0] for word in shown if re.match("--[a-z]", word)} <= known


def test_every_command_is_on_the_page_for_scripts() -> None:
    shown = {tuple(words_of(command.line)[1:]) for command in commands_of(ROOT / "docs" / "cli.md")}
    leaves = [path for path, command in command_tree().items() if not isinstance(command, click.Group)]
    assert [path for path in leaves if not any(words[: len(path)] == path for words in shown)] == []


# --- links, files, hosts ----------------------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """Anchors of the headings, made as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).replace(" ", "-") for title in titles}


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert broken == []


@every_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    named = {
        code for code in inline_code(text) if re.fullmatch(r"(?:kbs_rim|config|tests|docs|tools|benchmarks|migrations)/[\w./-]*", code)
    }
    named |= set(re.findall(r"docs/[a-z]+\.md", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@every_page
def test_no_page_names_a_machine(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"(?<![\w.])/(?:work|root|home|tmp/[a-z]|private)\b[^\s`)]*", text) == []
    hosts = set(re.findall(r"https?://([^\s/:`\"')>|]+)", text))
    allowed = re.compile(r"127\.0\.0\.1|[a-z.-]+\.example|github\.com|semver\.org|arm\.com|\.\.\.|HOST.*|host.*")
    assert [host for host in hosts if not allowed.fullmatch(host)] == []


# --- ids, codes, keys -------------------------------------------------------------------------------------------------


def leaves_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys of a model with their defaults; ``...`` where there is none. Ranges count as one key where they have a default."""
    for name, field in model.model_fields.items():
        nested = nested_model(field.annotation)
        required = field.is_required()
        if nested is not None and (nested is not Bounds or required):
            if nested is not Bounds:
                yield f"{prefix}{name}", None
            yield from leaves_of(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ... if required else field.default


def nested_model(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation is, or of which it holds any number."""
    kinds = [annotation, *(inner for outer in get_args(annotation) for inner in (outer, *get_args(outer)))]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def config_keys() -> set[str]:
    def walk(document: dict, prefix: str = "") -> Iterator[str]:
        for name, value in document.items():
            yield f"{prefix}{name}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")

    return set(walk(Settings().document()))


@cache
def other_codes() -> set[str]:
    """Dotted codes that are no findings: of the guest's client, of HTTP, of administrative changes; as literals in the code."""
    found = set()
    for path in (ROOT / "kbs_rim").rglob("*.py"):
        found |= set(re.findall(r'"([a-z]+\.[a-z][a-z0-9-]*)"', path.read_text()))
    return found | {f"image.{state}" for state in ImageState} | {f"log.{kind}" for kind in LogKind}


@every_page
def test_every_id_code_and_key_exists(page: Path) -> None:
    text = page.read_text()
    keys = config_keys()
    prefixes = {id_.split(".")[0] for id_ in CATALOGUE} | {key.split(".")[0] for key in keys} | {"guest", "access"}
    named = {code for code in inline_code(text) if re.fullmatch(r"[a-z]+(?:\.[a-z0-9_-]+)+", code) and code.split(".")[0] in prefixes}
    for _, block in FENCE.findall(text):
        named |= {
            id_ for id_ in re.findall(r"#.*?\b([a-z]+\.[a-z0-9-]+)(?=[,:]| *$)", block, re.MULTILINE) if id_.split(".")[0] in prefixes
        }
    known = set(CATALOGUE) | keys | dict(leaves_of(Workload)).keys() | other_codes()
    files = {name for name in named if re.search(r"\.(?:toml|md|py|jwk|json|cbor|pem|db)$", name)}
    files |= {name for name in named if (ROOT / "kbs_rim" / name.replace(".", "/")).with_suffix(".py").is_file()}
    assert sorted(named - known - files) == []


def written(value: object) -> str:
    """A default as the tables show it: TOML."""
    match value:
        case bool():
            return str(value).lower()
        case Enum():
            return written(value.value)
        case Bounds():
            return f"{{ min = {value.min}, max = {value.max} }}"
        case tuple():
            return f"[{', '.join(written(item) for item in value)}]"
        case str():
            return json.dumps(value)
        case _:
            return str(value)


def test_the_reference_of_workloads_has_every_key_with_its_default() -> None:
    text = (ROOT / "docs" / "workloads.md").read_text()
    shown = dict(re.findall(r"^\| `([a-z_.0-9]+)` \| (.+?) \|", text, re.MULTILINE))
    wanted = {}
    for key, default in leaves_of(Workload):
        if default is None:  # a table of its own; only those that must be there are rows
            if key in Workload.model_fields and Workload.model_fields[key].is_required():
                wanted[key] = "required"
        else:
            wanted[key] = "required" if default is ... else f"`{written(default)}`"
    assert shown == wanted


def test_guests_find_every_code_and_every_media_type() -> None:
    text = (ROOT / "docs" / "guest.md").read_text()
    told = {entry.code for entry in CATALOGUE.values() if entry.step >= 1 or entry.code in ("challenge-refused", "key-refused")}
    assert [code for code in sorted(told) if f"`{code}`" not in text] == []
    assert [type_ for type_ in ACCEPTED_MEDIA_TYPES if type_.split(";")[0] not in text] == []
    client = {code for code in other_codes() if code.startswith("guest.")}
    assert client
    assert [code for code in sorted(client) if f"`{code}`" not in text] == []


def test_every_fault_of_the_reference_verifier_is_listed() -> None:
    text = (ROOT / "docs" / "verifier.md").read_text()
    assert [fault for fault in Fault if f"`{fault}`" not in text] == []


# --- examples ---------------------------------------------------------------------------------------------------------


def blocks(page: str, language: str) -> list[str]:
    return [block for name, block in FENCE.findall((ROOT / "docs" / page).read_text()) if name == language]


def test_the_example_of_a_workload_is_valid() -> None:
    [example] = blocks("administrator.md", "toml")
    assert parse_workload(tomllib.loads(example)).name == "web"


def test_the_example_of_a_configuration_is_valid(tmp_path: Path) -> None:
    [example] = blocks("verifier.md", "toml")
    file = tmp_path / "kbs_rim.toml"
    file.write_text(example)
    assert load_settings(file, {}).settings.verifier.url == "https://veraison.example:8443"


@pytest.mark.parametrize(("ours", "verdict"), [(True, "ours\n"), (False, "NOT OURS: stop here\n")])
def test_the_check_of_the_commitment_that_guests_are_shown_works(tmp_path: Path, ours: bool, verdict: str) -> None:
    [example] = blocks("guest.md", "python")
    own, other = (guest_key_of(ec.generate_private_key(ec.SECP256R1()).public_key()) for _ in range(2))
    salt = bytes(range(32))
    challenge = commitment(salt, (own if ours else other).thumbprint)
    (tmp_path / "request.json").write_text(json.dumps({"pubkey": own.to_jwk()}))
    (tmp_path / "answer.json").write_text(json.dumps({"challenge": base64url.encode(challenge), "salt": base64url.encode(salt)}))
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == verdict
