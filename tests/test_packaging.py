"""What is shipped and how it is deployed: locks, wheel, image, compose file, proxy, units, scripts."""

import configparser
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kbs_rim import cli
from kbs_rim.config import ENVIRONMENT_PREFIX, load_settings
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.realm.guest_http import _COME_BACK
from kbs_rim.settings import Settings

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
UNITS = sorted((ROOT / "config" / "systemd").glob("*.service"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

EXTRAS = [requirement for extra in PROJECT["project"]["optional-dependencies"].values() for requirement in extra]


def pins(name: str) -> dict[str, Requirement]:
    """The requirements of a lock file by name, without their hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line.split(" --hash")[0].strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


class TestLocks:
    @pytest.mark.parametrize("name", LOCKS)
    def test_they_name_no_host(self, name: str) -> None:
        for line in (ROOT / name).read_text().splitlines():
            assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ |\bfile:", line), line

    @pytest.mark.parametrize("name", LOCKS)
    def test_every_package_is_pinned_with_sha256_hashes(self, name: str) -> None:
        blocks = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / name).read_text())
        assert len(blocks) == len(pins(name)) > 3
        for block in blocks:
            assert re.match(r"[a-z0-9][a-z0-9.-]*==[^ ;]+ ", block), block[:80]
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block[:80]
            assert "--hash=md5" not in block

    def test_what_is_tested_is_what_is_shipped(self) -> None:
        everything = {name: str(pin.specifier) for name, pin in pins("requirements-dev.lock").items()}
        for lock in ("requirements.lock", "requirements-build.lock"):
            for name, pin in pins(lock).items():
                assert everything[name] == str(pin.specifier), f"{lock}: {name}"

    @pytest.mark.parametrize(
        ("lock", "wanted"),
        [
            ("requirements.lock", [*PROJECT["project"]["dependencies"], *EXTRAS]),
            ("requirements-dev.lock", [item for item in PROJECT["dependency-groups"]["dev"] if isinstance(item, str)]),
            ("requirements-build.lock", [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["build"]]),
        ],
    )
    def test_they_satisfy_pyproject(self, lock: str, wanted: list[str]) -> None:
        locked = pins(lock)
        for text in wanted:
            requirement = Requirement(text)
            version = str(locked[canonicalize_name(requirement.name)].specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{lock}: {text} but {version}: run make lock"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("kbs_rim-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python finds kbs_rim in the unpacked wheel, away from the repository."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("KBS_RIM_", "COV", "PYTHON"))}
    return environ | {"PYTHONPATH": str(folder), "KBS_RIM_CONFIG": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"}


class TestWheel:
    def test_it_holds_package_migrations_types_and_reference_configuration(self, wheel: Path) -> None:
        names = set(zipfile.ZipFile(wheel).namelist())
        assert {"kbs_rim/cli/__init__.py", "kbs_rim/py.typed", "kbs_rim/_migrations/env.py"} <= names
        expected = {f"kbs_rim/_migrations/versions/{path.name}" for path in (ROOT / "migrations" / "versions").glob("*.py")}
        assert expected, "no migrations"
        assert expected <= names
        packs = {f"kbs_rim/_tree_rules/{path.name}" for path in (ROOT / "config" / "tree_rules").glob("*.toml")}
        assert len(packs) == 3
        assert packs <= names
        for folder in ("host_capabilities", "vmm_profiles"):
            files = {f"kbs_rim/_{folder}/{path.name}" for path in (ROOT / "config" / folder).glob("*.toml")}
            assert files
            assert files <= names
        shared = {name.split(".data/data/")[1] for name in names if ".data/data/" in name}
        assert {"share/kbs_rim/kbs_rim.toml", *(f"share/kbs_rim/systemd/{unit.name}" for unit in UNITS)} <= shared
        assert any(name.endswith("licenses/LICENSE") for name in names)
        assert not any(name.startswith(("tests/", "config/", "tools/")) or "__pycache__" in name for name in names)

    def test_the_command_runs_from_it(self, installed: dict[str, str], tmp_path: Path) -> None:
        code = "import sys; from kbs_rim import cli; print(cli.__file__, file=sys.stderr); cli.main(['config', 'show', '--json'])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=installed, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stderr.startswith(installed["PYTHONPATH"])
        assert json.loads(result.stdout)["digest"] == Settings().digest()

    def test_it_finds_its_rule_packs(self, installed: dict[str, str], tmp_path: Path) -> None:
        tree = ROOT / "tests" / "vectors" / "vmm" / "dtb-public" / "X016-kvmtool.dtb"
        code = f"from kbs_rim.cli import main; main(['dtb', 'check', {str(tree)!r}, '--rules', 'kvmtool'])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=installed, cwd=tmp_path)
        assert result.returncode == 0, result.stderr

    def test_it_migrates_a_database(self, installed: dict[str, str], tmp_path: Path) -> None:
        environ = installed | {"KBS_RIM__DATABASE__URL": f"sqlite:///{tmp_path}/kbs_rim.db"}
        code = "from kbs_rim.cli import main; main(['db', 'upgrade'])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "kbs_rim.db").stat().st_size > 0


class TestCompose:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = document["services"]
    brokers = ("broker-1", "broker-2")

    def test_there_are_the_services_of_the_picture(self) -> None:
        assert self.services.keys() == {"postgres", "migrations", *self.brokers, "proxy", "verifier"}

    @pytest.mark.parametrize("name", services)
    def test_every_service_is_confined(self, name: str) -> None:
        service = self.services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service
        assert "cap_add" not in service
        assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", service["user"])
        assert service["tmpfs"]
        assert not re.search(r":latest|^[^:]+$", service["image"])

    @pytest.mark.parametrize("name", services)
    def test_every_lasting_service_has_a_health_check(self, name: str) -> None:
        service = self.services[name]
        assert (service["restart"] == "no") != ("healthcheck" in service)

    def test_secrets_are_files_and_no_value_stands_in_the_environment(self) -> None:
        assert all(secret.keys() == {"file"} and secret["file"].startswith("./secrets/") for secret in self.document["secrets"].values())
        used = {secret for service in self.services.values() for secret in service.get("secrets", [])}
        assert used == self.document["secrets"].keys()
        for service in self.services.values():
            for name, value in service.get("environment", {}).items():
                assert not re.search(r"PASSWORD|TOKEN|_KEK|SECRET", name) or name.endswith("_FILE"), name
                for path in re.findall(r"/run/secrets/(\w+)", value):
                    assert path in service["secrets"]
        assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()

    def test_only_the_proxy_is_published_and_on_loopback_unless_told(self) -> None:
        published = {name: service["ports"] for name, service in self.services.items() if "ports" in service}
        assert published == {"proxy": ["${KBS_RIM_LISTEN:-127.0.0.1:8088}:8080"]}

    def test_the_database_is_reachable_by_nobody_else(self) -> None:
        assert self.document["networks"]["inside"]["internal"] is True
        assert self.services["postgres"]["networks"] == ["inside"]
        assert "inside" not in self.services["proxy"]["networks"]

    def test_brokers_start_after_the_migrations_and_those_after_the_database(self) -> None:
        for broker in self.brokers:
            assert self.services[broker]["depends_on"] == {"migrations": {"condition": "service_completed_successfully"}}
        assert self.services["migrations"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}

    @pytest.mark.parametrize("name", brokers)
    def test_a_broker_accepts_its_environment(self, name: str) -> None:
        environ = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for key, value in self.services[name]["environment"].items()}
        settings = load_settings(None, environ).settings
        assert settings.service.name == name
        assert settings.serving_problems() == []
        assert settings.http.internal.address[0] == "127.0.0.1"
        shutdown = int(self.services[name]["stop_grace_period"].removesuffix("s"))
        assert shutdown > settings.service.shutdown_timeout_s

    def test_the_verifier_can_be_another_one(self) -> None:
        assert self.services["verifier"]["profiles"] == ["reference"]
        assert "${KBS_RIM_VERIFIER_URL:-" in self.services["broker-1"]["environment"]["KBS_RIM__VERIFIER__URL"]


class TestServerCommands:
    """What compose and systemd start must be commands that exist, with options that exist."""

    @pytest.mark.parametrize(
        "words",
        [
            *(service["command"] for service in TestCompose.services.values() if service["image"].startswith("${KBS_RIM_IMAGE")),
            *(line.split()[1:] for unit in UNITS for line in re.findall(r"^ExecStart(?:Pre)?=(.*)$", unit.read_text(), re.MULTILINE)),
        ],
        ids=" ".join,
    )
    def test_it_exists(self, words: list[str]) -> None:
        command: click.Command | None = cli.root
        for word in words:
            if isinstance(command, click.Group):
                command = command.get_command(click.Context(command), word)
            elif word.startswith("-"):
                assert command is not None
                assert word.split("=")[0] in {name for parameter in command.params for name in parameter.opts}
        assert command is not None
        assert not isinstance(command, click.Group)


class TestProxy:
    text = (ROOT / "config" / "nginx.conf").read_text()

    def test_it_takes_bodies_as_large_as_the_broker_and_no_larger(self) -> None:
        sizes = re.findall(r"client_(?:max_body|body_buffer)_size (\d+)m;", self.text)
        assert [int(size) * 1024 * 1024 for size in sizes] == [DEFAULT_LIMITS.body_bytes] * 2

    def test_it_waits_longer_than_the_verifier_may_take(self) -> None:
        (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", self.text)
        assert int(seconds) > Settings().verifier.deadline_s

    def test_it_passes_on_the_guest_protocol_only(self) -> None:
        assert re.findall(r"location (?:= )?(\S+) \{", self.text) == ["/nginx-alive", "/keys/", "/"]
        assert self.text.count("proxy_pass ") == 1
        assert set(re.findall(r"server (broker-\d):8088", self.text)) == set(TestCompose.brokers)

    def test_it_limits_the_rate_of_each_address_with_a_status_that_guests_understand(self) -> None:
        (status,) = re.findall(r"limit_req_status (\d+);", self.text)
        assert int(status) in _COME_BACK
        (zone,) = re.findall(r"limit_req_zone \$binary_remote_addr zone=(\w+):", self.text)
        guests = self.text[self.text.index("location /keys/") :]
        assert f"limit_req zone={zone} " in guests[: guests.index("}")]

    def test_it_never_sends_a_request_twice(self) -> None:
        assert "non_idempotent" not in re.sub("#.*", "", self.text)


class TestImage:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")

    def test_everything_installed_is_hashed_or_built_from_this_tree(self) -> None:
        installs = re.findall(r"pip(?: --python \S+)? install ([^&\n]*)", self.text)
        assert len(installs) == 3
        for arguments in installs:
            assert "--require-hashes" in arguments or arguments.split() == ["--no-deps", "/wheels/*.whl"]

    def test_it_runs_as_a_numbered_user_other_than_root(self) -> None:
        assert re.findall(r"^USER (.*)$", self.text, re.MULTILINE) == [TestCompose.services["broker-1"]["user"]]

    def test_nothing_reaches_the_build_unless_named(self) -> None:
        lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
        assert lines[0] == "*"
        for source in re.findall(r"^COPY (?!--from)(.*) \S+$", self.text, re.MULTILINE):
            for name in source.split():
                assert f"!{name}" in lines
                assert (ROOT / name).exists()


class TestUnits:
    def test_there_is_one_for_each_server(self) -> None:
        assert [unit.name for unit in UNITS] == ["kbs-rim-verifier.service", "kbs-rim.service"]

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
    def test_it_is_sandboxed(self, unit: Path) -> None:
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        parser.optionxform = str  # type: ignore[method-assign,assignment]
        parser.read(unit)
        service = parser["Service"]
        for option in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "MemoryDenyWriteExecute"):
            assert service[option] == "yes", option
        assert service["ProtectSystem"] == "strict"
        assert service["CapabilityBoundingSet"] == ""
        assert re.search(r"^LoadCredential=", unit.read_text(), re.MULTILINE)
        assert int(service["TimeoutStopSec"]) > Settings().service.shutdown_timeout_s

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
    def test_its_environment_names_real_options(self, unit: Path) -> None:
        variables = dict(re.findall(rf"^(?:# *)?Environment=({ENVIRONMENT_PREFIX}\w+)=(.*)$", unit.read_text(), re.MULTILINE))
        load_settings(None, {"KBS_RIM_CONFIG": "/dev/null"} | variables)

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
    def test_systemd_finds_no_fault_and_little_exposure(self, unit: Path, tmp_path: Path) -> None:
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/kbs_rim/bin/kbs-rim", sys.executable))
        verify = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
        assert verify.returncode == 0, verify.stderr
        assert unit.name not in verify.stderr
        exposure = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(copy)]
        result = subprocess.run(exposure, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


class TestScripts:
    @pytest.mark.parametrize("script", [ROOT / ".ci" / "run", *sorted((ROOT / "tools").glob("*.sh"))], ids=lambda script: script.name)
    def test_they_are_valid_and_stop_at_the_first_error(self, script: Path) -> None:
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
        sourced = script.name == "apt.sh"
        assert ("set -euo pipefail" in script.read_text()) != sourced
        assert os.access(script, os.X_OK) != sourced

    def test_secrets_are_made_once_and_kept_behind_a_private_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "secrets"

        def make() -> dict[str, bytes]:
            subprocess.run([ROOT / "tools" / "compose_secrets.sh", str(folder)], check=True, capture_output=True)
            return {path.name: path.read_bytes() for path in folder.iterdir()}

        made = make()
        assert {f"./secrets/{name}" for name in made} == {secret["file"] for secret in TestCompose.document["secrets"].values()}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
        assert len(made["kek"]) == 32
        assert re.fullmatch(rb"[0-9a-f]{64}", made["postgres_password"])
        public = json.loads(made["verifier_public_key.json"])
        assert public["kty"] == "EC"
        assert "d" not in public
        assert make() == made

    def test_make_lists_its_commands(self) -> None:
        listed = subprocess.run(["make", "--no-print-directory", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
        commands = {line.split()[1] for line in listed.splitlines()}
        assert {"venv", "demo", "test", "lint", "bench", "fmt", "lock", "clean"} <= commands
        (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(phony.split()) == commands
