"""Configuration: sources, precedence, refusals, masking; and ``config/kbs_rim.toml`` against the code."""

import json
import re
import tempfile
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from kbs_rim import cli
from kbs_rim.adapters.secrets.local_kek import generate_key_file
from kbs_rim.config import ENVIRONMENT_PREFIX, _leaves, load_settings
from kbs_rim.errors import ConfigurationError
from kbs_rim.limits import Limits
from kbs_rim.reference_verifier.signing import SigningKey
from kbs_rim.settings import DatabaseSettings, Settings, read_secret_file

REFERENCE = Path(__file__).parent.parent / "config" / "kbs_rim.toml"
COMMENTED_OPTION = re.compile(r"^#(?=[a-z0-9_]+ = )", re.MULTILINE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kbs_rim.toml"


def refusal(path: Path | None = None, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, environ)
    return str(caught.value)


def refused(path: Path, environ: dict[str, str]) -> str:
    """The refusal, or an empty string if there is none."""
    try:
        load_settings(path, environ)
    except ConfigurationError as error:
        return str(error)
    return ""


def flat(table: dict, prefix: str = "") -> dict:
    found = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


class TestReferenceFile:
    def test_every_option_stands_there_with_its_default_and_no_other(self) -> None:
        active = flat(tomllib.loads(REFERENCE.read_text()))
        everything = flat(tomllib.loads(COMMENTED_OPTION.sub("", REFERENCE.read_text())))
        defaults = flat(Settings().document())
        assert everything.keys() == defaults.keys()
        assert active == {key: value for key, value in defaults.items() if value is not None}

    def test_every_option_has_a_reason_above_it(self) -> None:
        lines = REFERENCE.read_text().splitlines()
        for number, line in enumerate(lines):
            if re.match(r"#?[a-z0-9_]+ = ", line):
                above = lines[number - 1]
                # the second file of a pair, and options that repeat the other listener's, lean on the line above
                assert above.startswith("#") or "tls_" in line, line

    def test_examples_of_unset_options_are_valid(self, tmp_path: Path) -> None:
        text = COMMENTED_OPTION.sub("", REFERENCE.read_text())
        text = re.sub(r"^(url|password_file) = .*(sqlite|/run/secrets/database_password).*\n", "", text, flags=re.MULTILINE)
        (tmp_path / "all.toml").write_text(text)
        settings = load_settings(tmp_path / "all.toml", {}).settings
        assert settings.verifier.developer == "Veraison Project"
        assert all(value is not None for key, value in flat(settings.document()).items() if key != "database.password_file")

    def test_limits_are_those_of_the_code_with_their_reasons(self) -> None:
        text = REFERENCE.read_text()
        for item in fields(Limits):
            block = re.search(rf"^# ({item.metadata['unit']}.*)\n{item.name} = {item.default}$", text, re.MULTILINE)
            assert block, f"limits.{item.name}: run make limits"
            assert block.group(1).endswith(item.metadata["reason"]), f"limits.{item.name}: run make limits"

    def test_it_loads(self) -> None:
        loaded = load_settings(REFERENCE, {})
        assert loaded.settings == Settings()
        assert loaded.origins["limits.body_bytes"] == str(REFERENCE)


class TestSources:
    def test_environment_beats_drop_ins_beat_the_file(self, file: Path, tmp_path: Path) -> None:
        file.write_text('[challenge]\nlifetime_s = 10\n[service]\nname = "from-file"\nlog_level = "error"')
        (tmp_path / "kbs_rim.d").mkdir()
        (tmp_path / "kbs_rim.d" / "20-b.toml").write_text("[challenge]\nlifetime_s = 30")
        (tmp_path / "kbs_rim.d" / "10-a.toml").write_text('[challenge]\nlifetime_s = 20\n[service]\nname = "from-drop-in"')
        (tmp_path / "kbs_rim.d" / "README").write_text("not TOML")
        loaded = load_settings(file, {"KBS_RIM__SERVICE__LOG_LEVEL": "debug"})
        assert loaded.settings.challenge.lifetime_s == 30
        assert loaded.settings.service.name == "from-drop-in"
        assert loaded.settings.service.log_level == "debug"
        assert loaded.origins == {
            "challenge.lifetime_s": str(tmp_path / "kbs_rim.d" / "20-b.toml"),
            "service.name": str(tmp_path / "kbs_rim.d" / "10-a.toml"),
            "service.log_level": "environment variable KBS_RIM__SERVICE__LOG_LEVEL",
        }
        assert [path.name for path in loaded.files] == ["kbs_rim.toml", "10-a.toml", "20-b.toml"]

    def test_the_path_comes_from_the_environment_unless_given(self, file: Path, tmp_path: Path) -> None:
        file.write_text("[challenge]\nlifetime_s = 10")
        other = tmp_path / "other.toml"
        other.write_text("[challenge]\nlifetime_s = 11")
        assert load_settings(None, {"KBS_RIM_CONFIG": str(file)}).settings.challenge.lifetime_s == 10
        assert load_settings(other, {"KBS_RIM_CONFIG": str(file)}).settings.challenge.lifetime_s == 11

    def test_a_named_file_that_is_missing_is_an_error(self, tmp_path: Path) -> None:
        assert str(tmp_path / "none.toml") in refusal(tmp_path / "none.toml")
        assert "/none.toml" in refusal(None, KBS_RIM_CONFIG="/none.toml")

    def test_arrays_are_replaced(self, file: Path) -> None:
        file.write_text('[verifier]\nalgorithms = ["ES256", "ES384"]')
        loaded = load_settings(file, {"KBS_RIM__VERIFIER__ALGORITHMS": '["PS256"]'})
        assert loaded.settings.verifier.algorithms == ("PS256",)

    @pytest.mark.parametrize(
        ("variable", "text", "key", "value"),
        [
            ("LIMITS__LOG_EVENTS", "12", "limits.log_events", 12),
            ("SERVICE__TEST_MODE", "true", "service.test_mode", True),
            ("VERIFIER__DEADLINE_S", "2", "verifier.deadline_s", 2.0),
            ("HTTP__GUEST__LISTEN", "[::1]:0", "http.guest.listen", "[::1]:0"),
            ("SECRETS__KEK_FILE", "/k", "secrets.kek_file", "/k"),
            ("SERVICE__NAME", "12", "service.name", "12"),
            ("VERIFIER__DEVELOPER", "true", "verifier.developer", "true"),
            ("VERIFIER__PINNED_KEYS_FILES", '["/a", "/b"]', "verifier.pinned_keys_files", ["/a", "/b"]),
        ],
    )
    def test_environment_values_take_the_type_of_their_option(self, variable: str, text: str, key: str, value: object) -> None:
        assert flat(load_settings(Path("/dev/null"), {ENVIRONMENT_PREFIX + variable: text}).settings.document())[key] == value

    def test_every_option_can_be_set_from_the_environment(self) -> None:
        variables = {ENVIRONMENT_PREFIX + key.upper().replace(".", "__") for key, _ in _leaves(Settings)}
        assert len(variables) == len(dict(_leaves(Settings)))
        for variable in variables:
            with pytest.raises(ConfigurationError) as caught:  # "=" is no value of any option but of those that take text
                load_settings(Path("/dev/null"), {variable: "=", "KBS_RIM__LIMITS__CPUS": "0"})
            assert "unknown key" not in str(caught.value)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "key", "nearest"),
        [
            ("[verifier]\ndeadline = 3", "verifier.deadline", "verifier.deadline_s"),
            ('[verifer]\nurl = "http://v"', "verifer", "verifier"),
            ('[http.guests]\nlisten = "127.0.0.1:1"', "http.guests", "http.guest"),
            ("[limits]\nbody_byte = 3", "limits.body_byte", "limits.body_bytes"),
        ],
    )
    def test_an_unknown_key_names_file_key_and_the_nearest_one(self, file: Path, text: str, key: str, nearest: str) -> None:
        file.write_text(text)
        assert refusal(file) == f"{file}: unknown key {key}; did you mean {nearest}?"

    def test_an_unknown_variable_names_the_nearest_one(self) -> None:
        message = refusal(Path("/dev/null"), KBS_RIM__VERIFIER__DEADLINE="3")
        assert "KBS_RIM__VERIFIER__DEADLINE:" in message
        assert message.endswith("did you mean KBS_RIM__VERIFIER__DEADLINE_S?")

    def test_a_single_underscore_does_not_pass_silently(self) -> None:
        assert "unknown key" in refusal(Path("/dev/null"), KBS_RIM_DATABASE__URL="sqlite:////x")

    def test_variables_of_the_client_and_of_tests_are_left_alone(self) -> None:
        environ = {"KBS_RIM_CONFIG": "/dev/null", "KBS_RIM_URL": "http://b", "KBS_RIM_TOKEN": "t", "KBS_RIM_TEST_ANYTHING": "1"}
        assert load_settings(None, environ).origins == {}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("http = 3", "http is a table"),
            ("[service]\ntest_mode = 1", "service.test_mode"),
            ('[challenge]\nlifetime_s = "120"', "challenge.lifetime_s"),
            ("[challenge]\nlifetime_s = 0", "challenge.lifetime_s"),
            ("[challenge]\nlifetime_s = 2026-01-01", "date"),
            ("[verifier]\nalgorithms = []", "verifier.algorithms"),
            ('[verifier]\nalgorithms = ["none"]', "verifier.algorithms"),
            ('[verifier]\nalgorithms = ["HS256"]', "verifier.algorithms"),
            ("[verifier]\nrealm_statuses = []", "verifier.realm_statuses"),
            ('[verifier]\nrealm_statuses = ["contraindicated"]', "verifier.realm_statuses"),
            ('[verifier]\nurl = "ftp://v"', "verifier.url"),
            ('[verifier]\nurl = "http://user:pw@v"', "verifier.url"),
            ("[verifier]\ndeadline_s = inf", "verifier.deadline_s"),
            ("[verifier]\ndeadline_s = nan", "verifier.deadline_s"),
            ('[verifier]\nclient_key_file = "/k"', "together"),
            ('[http.internal]\ntls_key_file = "/k"', "together"),
            ('[http.guest]\nlisten = "8088"', "HOST:PORT"),
            ('[http.guest]\nlisten = "::1:8088"', "HOST:PORT"),
            ('[http.guest]\nlisten = "localhost:70000"', "HOST:PORT"),
            ('[database]\nurl = "mysql://h/d"', "database.url"),
            ('[database]\nurl = "postgresql://u@h/d?password=x"', "database.password_file"),
            ('[database]\nurl_file = "/u"\npassword_file = "/p"', "url_file"),
            ("[limits]\nlog_events = 0", "log_events must be a positive number of events"),
            ("[limits]\nlog_events = true", "limits.log_events"),
            ("[limits]\nlog_events = 9223372036854775808", "log_events must be a positive number of events below 2**63"),
            ("[service\n", "not TOML"),
        ],
    )
    def test_a_wrong_value_names_file_and_key(self, file: Path, text: str, words: str) -> None:
        file.write_text(text)
        message = refusal(file)
        assert words in message
        assert str(file) in message or "date" in message

    @pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "[" * 5000], ids=["digits", "hex-digits", "nested"])
    def test_what_the_toml_reader_gives_up_on_is_refused_like_the_rest(self, file: Path, number: str) -> None:
        file.write_text(f"[limits]\nlog_events = {number}")
        assert len(refusal(file)) < 500
        assert len(refusal(Path("/dev/null"), KBS_RIM__LIMITS__LOG_EVENTS=number)) < 500

    def test_a_very_long_key_is_not_repeated_at_length(self, file: Path) -> None:
        file.write_text("x" * 100_000 + " = 1")
        assert len(refusal(file)) < 300

    @pytest.mark.parametrize("port", ["0", "65536", "99999999"])
    def test_a_url_with_an_impossible_port_is_refused(self, file: Path, port: str) -> None:
        file.write_text(f'[verifier]\nurl = "http://v:{port}"')
        assert "verifier.url" in refusal(file)

    @pytest.mark.parametrize("text", ["", "1\n[service]\nname = 2", "two words", "2026-01-01"])
    def test_environment_text_cannot_smuggle_other_keys(self, text: str) -> None:
        assert "KBS_RIM__CHALLENGE__LIFETIME_S" in refusal(None, KBS_RIM_CONFIG="/dev/null", KBS_RIM__CHALLENGE__LIFETIME_S=text) or (
            text.startswith("2026")
        )

    def test_settings_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError):
            Settings().challenge.lifetime_s = 3

    @given(st.text(max_size=40), st.sampled_from([key for key, _ in _leaves(Settings)]))
    def test_any_text_in_any_variable_loads_or_is_refused_cleanly(self, text: str, key: str) -> None:
        variable = ENVIRONMENT_PREFIX + key.upper().replace(".", "__")
        message = refused(Path("/dev/null"), {variable: text})
        assert not message or variable in message or "date" in message

    @given(st.binary(max_size=60))
    def test_any_file_loads_or_is_refused_cleanly(self, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".toml") as file:
            file.write(data)
            file.flush()
            message = refused(Path(file.name), {})
        assert not message or file.name in message or "date" in message


class TestSecrets:
    PASSWORD = "tr0ub4dor"
    URL = f"postgresql://kbs:{PASSWORD}@db.example:5432/kbs_rim"

    def test_a_password_shows_nowhere(self) -> None:
        settings = load_settings(Path("/dev/null"), {"KBS_RIM__DATABASE__URL": self.URL}).settings
        for shown in (repr(settings), str(settings), str(settings.document()), settings.model_dump_json(), str(settings.model_dump())):
            assert self.PASSWORD not in shown
        assert settings.document()["database"]["url"] == "postgresql://kbs:********@db.example:5432/kbs_rim"
        assert settings.database.resolved_url().get_secret_value() == self.URL

    @pytest.mark.parametrize(
        "url", [f"mysql://u:{PASSWORD}@h/d", f"postgresql://u:{PASSWORD}@[h/d", f"postgresql://u:{PASSWORD}\u2100@h/d"]
    )
    def test_a_refused_url_does_not_show_its_password(self, url: str) -> None:
        message = refusal(Path("/dev/null"), KBS_RIM__DATABASE__URL=url)
        assert "database.url" in message
        assert self.PASSWORD not in message

    def test_the_password_file_fills_the_url(self, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("p@ss/w:rd\n")
        settings = DatabaseSettings(url=SecretStr("postgresql://kbs@db:5432/kbs_rim"), password_file=tmp_path / "password")
        assert settings.resolved_url().get_secret_value() == "postgresql://kbs:p%40ss%2Fw%3Ard@db:5432/kbs_rim"

    def test_the_url_file_replaces_the_url(self, tmp_path: Path) -> None:
        (tmp_path / "url").write_text(self.URL + "\n")
        assert DatabaseSettings(url_file=tmp_path / "url").resolved_url().get_secret_value() == self.URL

    @pytest.mark.parametrize("content", ["", "\n", f"mysql://u:{PASSWORD}@h", "x" * 70000])
    def test_a_bad_url_file_names_the_option_only(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "url").write_text(content)
        with pytest.raises(ConfigurationError, match=r"database\.url_file") as caught:
            DatabaseSettings(url_file=tmp_path / "url").resolved_url()
        assert self.PASSWORD not in str(caught.value)

    @pytest.mark.parametrize("url", ["sqlite:////x.db", "postgresql://db/kbs", "postgresql://u:p@db/kbs"])
    def test_a_password_file_needs_a_url_with_a_user_alone(self, tmp_path: Path, url: str) -> None:
        (tmp_path / "password").write_text("p")
        with pytest.raises(ConfigurationError, match=r"database\.password_file"):
            DatabaseSettings(url=SecretStr(url), password_file=tmp_path / "password").resolved_url()

    def test_a_secret_file_with_an_impossible_name_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"kek_file.*not the path"):
            read_secret_file(Path("/a\0b"), "kek_file")

    def test_a_missing_secret_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"database\.url_file: .*none cannot be read"):
            DatabaseSettings(url_file=tmp_path / "none").resolved_url()


class TestDigest:
    def test_it_depends_on_values_not_on_their_origin(self, file: Path) -> None:
        file.write_text("[challenge]\nlifetime_s = 60\n[service]\n")
        from_file = load_settings(file, {}).settings.digest()
        assert from_file == load_settings(Path("/dev/null"), {"KBS_RIM__CHALLENGE__LIFETIME_S": "60"}).settings.digest()
        assert from_file != Settings().digest()
        assert re.fullmatch(r"[0-9a-f]{64}", from_file)

    def test_a_changed_password_does_not_change_it(self) -> None:
        digests = {
            load_settings(Path("/dev/null"), {"KBS_RIM__DATABASE__URL": f"postgresql://kbs:{password}@db/k"}).settings.digest()
            for password in ("one", "two")
        }
        assert len(digests) == 1

    def test_every_option_changes_it(self) -> None:
        seen = {Settings().digest()}
        examples = flat(tomllib.loads(COMMENTED_OPTION.sub("", REFERENCE.read_text())))
        for key, default in flat(Settings().document()).items():
            value: object = examples[key] if default is None else default
            if key in {"database.url_file", "database.password_file"} or "tls_" in key or "client_" in key:
                continue  # valid only in pairs
            if isinstance(default, bool):
                value = not default
            elif isinstance(default, int | float):
                value = default + 1
            elif isinstance(default, list):
                value = {"verifier.algorithms": ["ES384"], "verifier.realm_statuses": ["affirming"]}.get(key, ["changed"])
            elif isinstance(default, str):
                value = {"service.log_level": "debug", "service.log_format": "console", "appraisal.kernel": "pure"}.get(key, default[:-1])
            text = value if isinstance(value, str) else json.dumps(value)
            seen.add(load_settings(Path("/dev/null"), {ENVIRONMENT_PREFIX + key.upper().replace(".", "__"): text}).settings.digest())
        assert len(seen) == 1 + len([key for key in flat(Settings().document()) if "tls_" not in key and "client_" not in key]) - 2


class TestServing:
    def problems(self, **environ: str) -> str:
        good = {"KBS_RIM__SECRETS__KEK_FILE": "/k", "KBS_RIM__VERIFIER__PINNED_KEYS_FILES": '["/p"]'}
        prefixed = {ENVIRONMENT_PREFIX + key: value for key, value in environ.items()}
        return "\n".join(load_settings(Path("/dev/null"), good | prefixed).settings.serving_problems())

    def test_a_key_and_a_pinned_verifier_are_enough(self) -> None:
        assert self.problems() == ""

    def test_nothing_to_believe_is_a_problem(self) -> None:
        assert "pinned_keys_files" in self.problems(VERIFIER__PINNED_KEYS_FILES="[]")

    def test_discovery_trust_needs_tls(self) -> None:
        assert "trust_discovery_key" in self.problems(VERIFIER__TRUST_DISCOVERY_KEY="true")
        assert self.problems(VERIFIER__TRUST_DISCOVERY_KEY="true", VERIFIER__URL="https://v") == ""
        assert self.problems(VERIFIER__TRUST_DISCOVERY_KEY="true", SERVICE__TEST_MODE="true") == ""

    def test_published_keys_need_test_mode(self) -> None:
        assert "test_mode" in self.problems(VERIFIER__ALLOW_PUBLISHED_KEYS="true")
        assert self.problems(VERIFIER__ALLOW_PUBLISHED_KEYS="true", SERVICE__TEST_MODE="true") == ""

    def test_dangerous_choices_are_warned_of(self) -> None:
        environ = {
            "KBS_RIM__SERVICE__TEST_MODE": "true",
            "KBS_RIM__SECRETS__LEGACY_RSA1_5": "true",
            "KBS_RIM__HTTP__INTERNAL__LISTEN": "0.0.0.0:1",
        }
        warnings = load_settings(Path("/dev/null"), environ).settings.warnings()
        assert [warning.split()[0] for warning in warnings] == ["service.test_mode", "secrets.legacy_rsa1_5", "http.internal"]
        assert Settings().warnings() == []


class TestCommand:
    def run(self, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.root, ["config", *arguments], env=env or {}, standalone_mode=False)
        if result.exception:
            raise result.exception
        return int(result.return_value or 0), result.stdout, result.stderr

    def test_show_masks_and_tells_origins(self) -> None:
        env = {"KBS_RIM_CONFIG": str(REFERENCE), "KBS_RIM__DATABASE__URL": TestSecrets.URL}
        code, out, err = self.run("show", env=env)
        assert code == 0
        assert TestSecrets.PASSWORD not in out + err
        assert re.search(r'^database\.url = "postgresql://kbs:\*{8}@db\.example:5432/kbs_rim" +# environment variable', out, re.MULTILINE)
        assert re.search(rf"^service\.name = \"kbs_rim\" +# {REFERENCE}$", out, re.MULTILINE)
        assert re.search(r"^secrets\.kek_file = \(unset\) +# default$", out, re.MULTILINE)
        assert re.search(r"^digest sha256:[0-9a-f]{64}$", err, re.MULTILINE)

    def test_show_json(self) -> None:
        _, out, _ = self.run("show", "--json", "--config", str(REFERENCE))
        document = json.loads(out)
        assert document["settings"] == Settings().document()
        assert document["digest"] == Settings().digest()
        assert document["files"] == [str(REFERENCE)]

    def test_check_fails_on_what_keeps_a_broker_from_serving(self, tmp_path: Path) -> None:
        code, out, err = self.run("check", "--config", str(REFERENCE))
        assert code == 2
        assert "problem: secrets.kek_file is not set" in err
        assert "keeps a broker" not in err
        assert out.startswith("digest sha256:")

    def checked(self, file: Path, **options: object) -> list[str]:
        """What ``config check`` finds wrong with options that are given by section and name."""
        env = {ENVIRONMENT_PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in options.items()}
        code, out, _ = self.run("check", "--json", "--config", str(file), env=env)
        problems: list[str] = json.loads(out)["problems"]
        assert code == (2 if problems else 0)
        return problems

    def test_check_opens_the_files_that_serving_opens(self, tmp_path: Path, file: Path) -> None:
        """What kept a broker from starting is found beforehand, with the option, the file and what to do."""
        file.write_text("")
        kek, jwk, text = tmp_path / "kek", tmp_path / "jwk", tmp_path / "text"
        generate_key_file(kek)
        jwk.write_text(json.dumps(SigningKey.generate().public_jwk()))
        text.write_text("x")
        good: dict[str, object] = {"SECRETS__KEK_FILE": str(kek), "VERIFIER__PINNED_KEYS_FILES": [str(jwk)]}
        assert self.checked(file, **good) == []
        plain = {ENVIRONMENT_PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in good.items()}
        assert "nothing here keeps a broker from serving" in self.run("check", "--config", str(file), env=plain)[2]
        cases: list[tuple[dict[str, object], str]] = [
            ({"SECRETS__KEK_FILE": f"{tmp_path}/none"}, f"secrets.kek_file: {tmp_path}/none cannot be read: No such file or directory"),
            ({"SECRETS__PREVIOUS_KEK_FILES": [str(text)]}, f"secrets.kek_file: {text} may be read by everybody: chmod 600 {text}"),
            ({"VERIFIER__PINNED_KEYS_FILES": [f"{tmp_path}/none"]}, f"verifier.pinned_keys_files: {tmp_path}/none cannot be read"),
            ({"VERIFIER__PINNED_KEYS_FILES": [str(text)]}, f"verifier.pinned_keys_files: {text}: {text} is not JSON"),
            ({"VERIFIER__CA_FILE": str(text)}, f"verifier.ca_file: {text} holds no PEM certificate"),
            ({"VERIFIER__AUTHORIZATION_FILE": f"{tmp_path}/none"}, f"verifier.authorization_file: {tmp_path}/none cannot be read"),
            (
                {"VERIFIER__CLIENT_CERTIFICATE_FILE": str(text), "VERIFIER__CLIENT_KEY_FILE": str(text)},
                f"verifier.client_certificate_file: {text} holds no PEM certificate",
            ),
            (
                {"HTTP__GUEST__TLS_CERTIFICATE_FILE": str(text), "HTTP__GUEST__TLS_KEY_FILE": str(text)},
                f"http.guest.tls_certificate_file: {text} holds no PEM certificate",
            ),
            (
                {"HTTP__INTERNAL__TLS_CERTIFICATE_FILE": f"{tmp_path}/none", "HTTP__INTERNAL__TLS_KEY_FILE": str(text)},
                f"http.internal.tls_certificate_file: {tmp_path}/none cannot be read",
            ),
            ({"DATABASE__URL_FILE": f"{tmp_path}/none"}, f"database.url_file: {tmp_path}/none cannot be read"),
            ({"APPRAISAL__TREE_RULES_DIRECTORY": str(text)}, f"appraisal.tree_rules_directory: {text} is not a directory of rule packs"),
        ]
        text.chmod(0o644)
        for options, words in cases:
            problems = self.checked(file, **{**good, **options})
            assert len(problems) == 1, (options, problems)
            assert problems[0].startswith(words)

    def test_check_refuses_a_pinned_key_that_is_published(self, tmp_path: Path, file: Path) -> None:
        """Every release would be refused for it later."""
        published = Path(__file__).parent / "vectors" / "tokens" / "keys" / "cpak-veraison-p256.jwk"
        generate_key_file(tmp_path / "kek")
        file.write_text(f'[secrets]\nkek_file = "{tmp_path}/kek"\n[verifier]\npinned_keys_files = ["{published}"]\n')
        [problem] = self.checked(file)
        assert problem.startswith(f"verifier.pinned_keys_files: {published} holds a key whose private half is published")
        assert self.checked(file, SERVICE__TEST_MODE=True, VERIFIER__ALLOW_PUBLISHED_KEYS=True) == []

    def test_check_reads_the_rule_packs_as_well(self, file: Path) -> None:
        packs = file.parent / "packs"
        packs.mkdir()
        (packs / "mine.toml").write_text('name = "mine"')
        file.write_text(f'[appraisal]\ntree_rules_directory = "{packs}"\n')
        code, out, _ = self.run("check", "--json", "--config", str(file))
        assert code == 2
        [problem] = [problem for problem in json.loads(out)["problems"] if "tree_rules_directory" in problem]
        assert "mine.toml: the rule pack is not valid" in problem

    def test_a_broken_file_is_exit_2_with_one_line(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file.write_text("[verifier]\ndeadline = 1")
        with pytest.raises(SystemExit) as caught:
            cli.main(["config", "show", "--config", str(file)])
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"kbs-rim: {file}: unknown key verifier.deadline; did you mean verifier.deadline_s?\n"
