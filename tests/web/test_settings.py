"""The environment: names, files, fall-backs, and what production refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from keyturn.core.errors import UnsafePolicy, UnsafeSettings
from keyturn.core.policy import DAY, Policy, Rotation
from keyturn.settings import FILED, Settings
from keyturn.tokens import base64url
from keyturn.tokens.secret_ring import SecretRing

SECRET = SecretRing.generate(os.urandom(32))
KEY = base64url.encode(os.urandom(32))
SAFE = {"KEYTURN_SECRET": SECRET, "KEYTURN_BASE_URL": "https://auth.example.com"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings."""
    for name in list(os.environ):
        if name.startswith("KEYTURN_") or name in {"DATABASE_URL", "REDIS_URL"}:
            monkeypatch.delenv(name)
    return monkeypatch


def load(environment: pytest.MonkeyPatch, **variables: str) -> Settings:
    """Read settings from these variables alone."""
    for name, value in variables.items():
        environment.setenv(name, value)
    return Settings.load()


def codes(settings: Settings, *, fatal: bool = True) -> set[str]:
    """Return the codes of the findings."""
    return {finding.code for finding in settings.findings() if finding.fatal == fatal}


def test_defaults_are_production(environment: pytest.MonkeyPatch) -> None:
    """Nothing set is production, and that does not start without a secret and an address."""
    settings = load(environment)
    assert settings.production
    assert settings.database_url.get_secret_value() == "sqlite:///keyturn.db"
    assert codes(settings) == {"secret_missing", "base_url_missing"}
    with pytest.raises(UnsafeSettings) as refused:
        settings.refuse_unsafe()
    assert len(refused.value.problems) == 2
    assert settings.policy() == Policy()


def test_safe_production(environment: pytest.MonkeyPatch) -> None:
    """With both it starts."""
    settings = load(environment, **SAFE)
    settings.refuse_unsafe()
    assert settings.findings() == []
    config = settings.web_config()
    assert config.own_origins == {"https://auth.example.com"}
    assert not config.own_origin_from_host
    assert (settings.issuer_or_default, settings.audience_or_default) == ("https://auth.example.com",) * 2


UNSAFE: list[tuple[dict[str, str], str]] = [
    ({"KEYTURN_SECRET": "1:" + "A" * 43}, "secret_weak"),
    ({"KEYTURN_SECRET": "1:changeme"}, "secret_weak"),
    ({"KEYTURN_SECRET": "hunter2"}, "secret_weak"),
    ({"KEYTURN_SECRET": "1:" + base64url.encode(os.urandom(16))}, "secret_weak"),
    ({"KEYTURN_DEBUG": "true"}, "debug"),
    ({"KEYTURN_ALLOWED_ORIGINS": "*"}, "origin_malformed"),
    ({"KEYTURN_ALLOWED_ORIGINS": "https://*.example.com"}, "origin_malformed"),
    ({"KEYTURN_ALLOWED_ORIGINS": "null"}, "origin_malformed"),
    ({"KEYTURN_ALLOWED_ORIGINS": "https://a.example.com/path"}, "origin_malformed"),
    ({"KEYTURN_ALLOWED_ORIGINS": "https://a.example.com:443"}, "origin_malformed"),
    ({"KEYTURN_ALLOWED_ORIGINS": "https://a.example.com, http://b.example.com"}, "origin_http"),
    ({"KEYTURN_BASE_URL": "http://auth.example.com"}, "base_url_http"),
    ({"KEYTURN_BASE_URL": "auth.example.com"}, "base_url_malformed"),
    ({"KEYTURN_BASE_URL": "https://"}, "base_url_malformed"),
    ({"KEYTURN_BASE_URL": "https://auth.example.com:x"}, "base_url_malformed"),
    ({"KEYTURN_BASE_URL": "https://user:hunter2@auth.example.com"}, "base_url_malformed"),
    ({"KEYTURN_BASE_URL": "https://auth.example.com/"}, "base_url_malformed"),
    ({"KEYTURN_BASE_URL": "https://auth.example.com/?"}, "base_url_malformed"),
    ({"KEYTURN_BASE_URL": "https://auth.example.com#a"}, "base_url_malformed"),
    ({"KEYTURN_BASE_URL": "https://auth.example.com/a b"}, "base_url_malformed"),
    ({"KEYTURN_ISSUER": " "}, "issuer_malformed"),
    ({"KEYTURN_ISSUER": "keyturn"}, "issuer_malformed"),
    ({"KEYTURN_ISSUER": "https://x y"}, "issuer_malformed"),
    ({"KEYTURN_ISSUER": "https://auth.example.com/a b"}, "issuer_malformed"),
    ({"KEYTURN_ISSUER": "https://auth.example.com?"}, "issuer_malformed"),
    ({"KEYTURN_ISSUER": "https://user:hunter2@auth.example.com"}, "issuer_malformed"),
    ({"KEYTURN_ISSUER": "http://auth.example.com"}, "issuer_malformed"),
    ({"KEYTURN_AUDIENCE": " "}, "audience_malformed"),
    ({"KEYTURN_AUDIENCE": "notes,mail"}, "audience_malformed"),
    ({"KEYTURN_AUDIENCE": "notes mail"}, "audience_malformed"),
    ({"KEYTURN_BASE_PATH": "auth"}, "base_path_malformed"),
    ({"KEYTURN_BASE_PATH": "/.."}, "base_path_malformed"),
    ({"KEYTURN_SSR_KEYS": "next:" + base64url.encode(os.urandom(16))}, "ssr_key_short"),
    ({"KEYTURN_SSR_KEYS": f"a:{KEY} next:" + "A" * 43}, "ssr_key_weak"),
    ({"KEYTURN_SSR_KEYS": "next:" + base64url.encode(b"a passphrase that is long enough")}, "ssr_key_weak"),
    ({"KEYTURN_SSR_KEYS": "next:" + SECRET.partition(":")[2]}, "ssr_key_weak"),
    ({"KEYTURN_SSR_KEYS": "next"}, "ssr_key_malformed"),
    ({"KEYTURN_SSR_KEYS": f"a:{KEY},a:{KEY}"}, "ssr_key_malformed"),
    ({"KEYTURN_SSR_KEYS": "next:not base64!"}, "ssr_key_malformed"),
    ({"KEYTURN_METRICS_TOKEN": "short"}, "metrics_token_weak"),
    ({"KEYTURN_METRICS_TOKEN": "long enough but with blanks"}, "metrics_token_weak"),
    ({"KEYTURN_METRICS_TOKEN": "a" * 20}, "metrics_token_weak"),
    ({"KEYTURN_METRICS_TOKEN": "changeme" * 3}, "metrics_token_weak"),
    ({"KEYTURN_METRICS_TOKEN": SECRET.partition(":")[2]}, "metrics_token_weak"),
    ({"KEYTURN_SETTLE_TIME": "10"}, "policy"),
    ({"KEYTURN_ACCESS_LIFETIME": "86400"}, "policy"),
    ({"KEYTURN_ABSOLUTE_LIFETIME": "31536000"}, "policy"),
    ({"KEYTURN_INACTIVITY_TIMEOUT": "0"}, "policy"),
    ({"KEYTURN_REMEMBERED_INACTIVITY_TIMEOUT": "0"}, "policy"),
    ({"KEYTURN_PASSWORD_MIN_LENGTH": "7"}, "policy"),
    ({"KEYTURN_PASSWORD_MIN_LENGTH": "65"}, "policy"),
]


@pytest.mark.parametrize(("changes", "finding"), UNSAFE)
def test_unsafe_production(environment: pytest.MonkeyPatch, changes: dict[str, str], finding: str) -> None:
    """Production refuses to start, names the finding, and repeats no secret."""
    settings = load(environment, **{**SAFE, **changes})
    assert finding in codes(settings)
    with pytest.raises(UnsafeSettings) as refused:
        settings.refuse_unsafe()
    assert finding in str(refused.value)
    for name in ("KEYTURN_SECRET", "KEYTURN_SSR_KEYS", "KEYTURN_METRICS_TOKEN"):
        assert changes.get(name, "no such text") not in str(refused.value)


@pytest.mark.parametrize(("changes", "finding"), UNSAFE)
def test_unsafe_development(environment: pytest.MonkeyPatch, changes: dict[str, str], finding: str) -> None:
    """Development starts with it, and says so loudly."""
    settings = load(environment, **{**SAFE, **changes, "KEYTURN_ENV": "development"})
    settings.refuse_unsafe()
    assert {finding, "development"} <= codes(settings, fatal=False)


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"KEYTURN_LOG_LEVEL": "debug"}, "log_level_debug"),
        ({"KEYTURN_DENYLIST": "off"}, "denylist_off"),
        ({"KEYTURN_ROTATION": "strict"}, "rotation_strict"),
    ],
)
def test_choices_worth_a_word(environment: pytest.MonkeyPatch, changes: dict[str, str], finding: str) -> None:
    """What costs something but is a choice is told and not refused."""
    settings = load(environment, **SAFE, **changes)
    settings.refuse_unsafe()
    assert codes(settings, fatal=False) == {finding}


@pytest.mark.parametrize("token", ["0123456789abcdef0fed", "00112233445566778890", "pH3zVb-2_kQw9TtXn0LsYc"])
def test_random_metrics_token(environment: pytest.MonkeyPatch, token: str) -> None:
    """Of whatever characters: digits alone do not show as many different ones as a key does."""
    assert codes(load(environment, **SAFE, KEYTURN_METRICS_TOKEN=token)) == set()


def test_development_relaxes_the_policy(environment: pytest.MonkeyPatch) -> None:
    """Only development may break the time inequalities."""
    assert load(environment, KEYTURN_ENV="development", KEYTURN_SETTLE_TIME="1").policy().settle_time == 1
    with pytest.raises(UnsafePolicy):
        load(environment, KEYTURN_ENV="production").policy()


def test_policy_numbers(environment: pytest.MonkeyPatch) -> None:
    """Every number of the contract reaches the policy."""
    policy = load(
        environment,
        KEYTURN_ACCESS_LIFETIME="300",
        KEYTURN_SETTLE_TIME="90",
        KEYTURN_TAIL_TIME="20",
        KEYTURN_MAX_SESSIONS="3",
        KEYTURN_ACCOUNT_LOGINS="20",
        KEYTURN_USER_AGENT_DRIFT="require_login",
        KEYTURN_ADDRESS_DRIFT="notify",
        KEYTURN_PASSWORD_MIN_LENGTH="12",
        KEYTURN_ROTATION="strict",
    ).policy()
    assert (policy.access_lifetime, policy.settle_time, policy.tail_time, policy.max_sessions) == (300, 90, 20, 3)
    assert (policy.user_agent_drift, policy.address_drift, policy.password_min_length) == (
        "require_login",
        "notify",
        12,
    )
    assert (policy.rotation, policy.account_logins) == (Rotation.STRICT, 20)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (3600, 14 * DAY, DAY, 30 * DAY)),
        ({"INACTIVITY_TIMEOUT": "7200"}, (7200, 7200, DAY, 30 * DAY)),
        ({"INACTIVITY_TIMEOUT": "7200", "REMEMBERED_INACTIVITY_TIMEOUT": "9000"}, (7200, 9000, DAY, 30 * DAY)),
        ({"REMEMBERED_INACTIVITY_TIMEOUT": "9000"}, (3600, 9000, DAY, 30 * DAY)),
        ({"ABSOLUTE_LIFETIME": "604800"}, (3600, 7 * DAY, DAY, 7 * DAY)),
        ({"ABSOLUTE_LIFETIME": "28800"}, (3600, 28800, 28800, 28800)),
        ({"ABSOLUTE_LIFETIME": "28800", "INACTIVITY_TIMEOUT": "1800"}, (1800, 1800, 28800, 28800)),
    ],
)
def test_session_lifetimes(
    environment: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[float, ...]
) -> None:
    """One variable sets both kinds of session, as far as each may go."""
    policy = load(environment, **{f"KEYTURN_{name}": value for name, value in variables.items()}).policy()
    found = (
        policy.inactivity_timeout,
        policy.remembered_inactivity_timeout,
        policy.absolute_lifetime,
        policy.remembered_absolute_lifetime,
    )
    assert found == expected


# -- sources


@pytest.mark.parametrize("before", ["", "\ufeff"], ids=["plain", "with the mark that some editors write"])
@pytest.mark.parametrize("name", FILED)
def test_secret_from_a_file(environment: pytest.MonkeyPatch, tmp_path: Path, name: str, before: str) -> None:
    """Every credential may stand in a file, which goes before the variable."""
    path = tmp_path / "secret"
    path.write_text(f"{before}from-file\r\n", encoding="utf-8")
    variable = f"KEYTURN_{name.upper()}"
    settings = load(environment, **{variable: "from-variable", f"{variable}_FILE": str(path)})
    assert getattr(settings, name).get_secret_value() == "from-file"


def test_secret_file_that_is_missing(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that cannot be read is named, and nothing else is used in its place."""
    with pytest.raises(UnsafeSettings, match=r"^KEYTURN_SECRET_FILE: .*no-such-file: No such file"):
        load(environment, KEYTURN_SECRET=SECRET, KEYTURN_SECRET_FILE=str(tmp_path / "no-such-file"))


def test_secret_file_that_is_no_text(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is no text is refused without showing any of it."""
    path = tmp_path / "secret"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnsafeSettings, match=r"^KEYTURN_SECRET_FILE: .* not UTF-8$"):
        load(environment, KEYTURN_SECRET_FILE=str(path))


@pytest.mark.parametrize("name", FILED)
@pytest.mark.parametrize("env", ["production", "development"])
def test_secret_file_that_is_empty(environment: pytest.MonkeyPatch, tmp_path: Path, name: str, env: str) -> None:
    """A file in which nothing stands is refused, in development too: nothing else is used in its place, and not nothing."""
    path = tmp_path / "secret"
    path.write_text(" \n")
    variable = f"KEYTURN_{name.upper()}"
    with pytest.raises(UnsafeSettings, match=rf"^{variable}_FILE: {path}: nothing stands in it$"):
        load(environment, **{variable: "from-variable", f"{variable}_FILE": str(path), "KEYTURN_ENV": env})


@pytest.mark.parametrize(
    "url",
    ["corpus", "https://corpus.example.com:65536/range", "https://-/range", "https://a@b.test", "https://b.test/?a"],
)
def test_setting_of_another_form_is_told_by_an_example(environment: pytest.MonkeyPatch, url: str) -> None:
    """Nobody is shown a pattern, and each line begins with a variable."""
    with pytest.raises(UnsafeSettings, match=r"^KEYTURN_BREACH_URL: must look like https://corpus.example.com/range"):
        load(environment, KEYTURN_BREACH_URL=url)
    (finding,) = [
        each
        for each in load(environment, KEYTURN_BASE_PATH="auth", KEYTURN_BREACH_URL="").findings()
        if "base_path" in each.code
    ]
    assert finding.text.startswith("KEYTURN_BASE_PATH must look like /auth")


def test_urls_of_a_platform(environment: pytest.MonkeyPatch) -> None:
    """DATABASE_URL and REDIS_URL are taken where ours are not set."""
    settings = load(environment, DATABASE_URL="postgresql://a", REDIS_URL="redis://b")
    assert settings.database_url.get_secret_value() == "postgresql://a"
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://b"
    ours = load(environment, KEYTURN_DATABASE_URL="sqlite:///ours.db")
    assert ours.database_url.get_secret_value() == "sqlite:///ours.db"


def test_arguments_go_first(environment: pytest.MonkeyPatch) -> None:
    """What the command line says goes before the environment; what it does not say changes nothing."""
    environment.setenv("KEYTURN_DATABASE_URL", "sqlite:///variable.db")
    environment.setenv("KEYTURN_TRUSTED_PROXIES", "2")
    settings = Settings.load(database_url="sqlite:///argument.db", trusted_proxies=None)
    assert settings.database_url.get_secret_value() == "sqlite:///argument.db"
    assert settings.trusted_proxies == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRUSTED_PROXIES", "many-secret"),
        ("TRUSTED_PROXIES", "-1"),
        ("ENV", "staging-secret"),
        ("SAME_SITE", "None"),
        ("SIGNUP", "secret"),
        ("ACCESS_LIFETIME", "ten secret"),
        ("METRICS_PORT", "99999"),
        ("DENYLIST", "secret"),
        ("LOGIN_THREADS", "0"),
        ("ROTATION", "secret"),
    ],
)
def test_value_of_the_wrong_form(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A setting of the wrong form is named, and its value is not repeated."""
    with pytest.raises(UnsafeSettings) as refused:
        load(environment, **{f"KEYTURN_{name}": value})
    assert f"KEYTURN_{name}" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None


def test_override_that_is_no_setting(environment: pytest.MonkeyPatch) -> None:
    """A misspelt argument is refused by its name: with the default in its place a program would run on another database."""
    environment.setenv("KEYTURN_OTHER", "is left to whoever it is for")
    assert Settings.load(database_url="sqlite:///own.db").database_url.get_secret_value() == "sqlite:///own.db"
    with pytest.raises(UnsafeSettings, match=r"^KEYTURN_DATABSE_URL: there is no such setting$"):
        Settings.load(databse_url="sqlite:///own.db")


def test_empty_variable_is_not_set(environment: pytest.MonkeyPatch) -> None:
    """An empty variable, as compose files leave them, is none."""
    settings = load(environment, KEYTURN_BASE_URL="", KEYTURN_TRUSTED_PROXIES="", KEYTURN_SECRET="")
    assert (settings.base_url, settings.trusted_proxies, settings.secret) == (None, 0, None)


def test_secrets_are_not_shown(environment: pytest.MonkeyPatch) -> None:
    """Neither repr nor a dump of the settings shows a secret."""
    settings = load(environment, **SAFE, KEYTURN_DATABASE_URL="postgresql://u:hunter2@h/d", KEYTURN_SSR_KEYS=f"a:{KEY}")
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in text
        assert "hunter2" not in text
        assert KEY not in text
    assert KEY not in repr(settings.web_config())


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        ("https://auth.example.com", "https://auth.example.com"),
        ("https://AUTH.example.com/", "https://auth.example.com"),
        ("https://auth.example.com:443/x", "https://auth.example.com"),
        ("https://auth.example.com:8443", "https://auth.example.com:8443"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://[2001:DB8:0::0001]", "https://[2001:db8::1]"),
        ("https://[::ffff:192.0.2.1]", "https://[::ffff:c000:201]"),
        ("http://localhost:8000", "http://localhost:8000"),
    ],
)
def test_own_origin(environment: pytest.MonkeyPatch, base_url: str, origin: str) -> None:
    """Our own origin is that of the base URL, spelled as browsers spell it."""
    assert load(environment, KEYTURN_BASE_URL=base_url).base_origin == origin


def test_base_url_with_a_password(environment: pytest.MonkeyPatch) -> None:
    """It is nobody's origin, and what is said about it repeats nothing."""
    settings = load(environment, KEYTURN_ENV="development", KEYTURN_BASE_URL="https://user:hunter2@auth.example.com")
    with pytest.raises(UnsafeSettings, match="KEYTURN_BASE_URL") as refused:
        settings.web_config()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "issuer", ["https://auth.example.com:443", "https://Auth.example.com/tenant/", "https://[::1]:1"]
)
@pytest.mark.parametrize("audience", ["notes", "https://notes.example.com/", "urn:example:notes"])
def test_issuer_and_audience(environment: pytest.MonkeyPatch, issuer: str, audience: str) -> None:
    """They stand in the tokens as they are set: a service compares them letter by letter."""
    settings = load(environment, **SAFE, KEYTURN_ISSUER=issuer, KEYTURN_AUDIENCE=audience)
    assert codes(settings) == set()
    assert (settings.issuer_or_default, settings.audience_or_default) == (issuer, audience)


def test_base_url_beside_an_issuer(environment: pytest.MonkeyPatch) -> None:
    """A closing slash matters only where the base URL stands in the tokens."""
    changes = {"KEYTURN_BASE_URL": "https://auth.example.com/", "KEYTURN_ISSUER": "https://auth.example.com"}
    assert codes(load(environment, **{**SAFE, **changes})) == set()


def test_web_config(environment: pytest.MonkeyPatch) -> None:
    """Everything the web layer is told comes from the settings."""
    variables: dict[str, Any] = {
        "KEYTURN_ALLOWED_ORIGINS": "https://a.example.com, https://B.example.com/ https://c.example.com",
        "KEYTURN_TRUSTED_PROXIES": "2",
        "KEYTURN_SAME_SITE": "Strict",
        "KEYTURN_SIGNUP": "closed",
        "KEYTURN_SSR_KEYS": f"next:{KEY} nuxt:{KEY}",
        "KEYTURN_METRICS_TOKEN": "m" * 32,
        "KEYTURN_BASE_PATH": "/api/auth",
    }
    config = load(environment, **SAFE, **variables).web_config()
    assert config.allowed_origins == {f"https://{name}.example.com" for name in "abc"}
    assert config.ssr_keys == {"next": base64url.decode(KEY), "nuxt": base64url.decode(KEY)}
    assert (config.trusted_proxies, config.same_site, config.signup_open) == (2, "Strict", False)
    assert config.base_path == "/api/auth"
    assert config.metrics_token is not None
    assert config.metrics_token.get_secret_value() == "m" * 32


def test_web_config_in_development(environment: pytest.MonkeyPatch) -> None:
    """Without a base URL, development takes the request's own origin; production has none."""
    assert load(environment, KEYTURN_ENV="development").web_config().own_origin_from_host
    assert not load(environment, KEYTURN_ENV="production").web_config().own_origin_from_host
    environment.setenv("KEYTURN_ENV", "development")
    assert not load(environment, KEYTURN_BASE_URL="http://localhost:8000").web_config().own_origin_from_host


@pytest.mark.parametrize("name", ["KEYTURN_ALLOWED_ORIGINS", "KEYTURN_BASE_PATH", "KEYTURN_SSR_KEYS"])
def test_web_config_that_is_malformed(environment: pytest.MonkeyPatch, name: str) -> None:
    """What is not of its form stops the start in development too, and the fault names the variable."""
    with pytest.raises(UnsafeSettings, match=name):
        load(environment, KEYTURN_ENV="development", **{name: "*"}).web_config()
