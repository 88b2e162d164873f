"""The environment, read once: every `KEYTURN_*` variable, and what is unsafe about them.

Owns: names, defaults, `_FILE` variants, the values that they stand for (policy, secrets, addresses), findings. Must not
hold: the node that is built from them (`runtime.py`), findings that need a database (the store's).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from keyturn.core.cookie import SameSite
from keyturn.core.errors import UnsafePolicy, UnsafeSettings
from keyturn.core.policy import DAY, HOUR, Drift, Policy, Rotation
from keyturn.tokens import base64url
from keyturn.tokens.secret_ring import SecretRing, is_pattern, weakness
from keyturn.web.config import ORIGIN_FORM, WebConfig, is_origin, origin_of

PREFIX: Final = "KEYTURN_"
SECRET_MISSING: Final = f"{PREFIX}SECRET or {PREFIX}SECRET_FILE is not set: `keyturn secret` prints one"
DEFAULT_DATABASE_URL: Final = "sqlite:///keyturn.db"
_MIN_SSR_KEY_BYTES: Final = 32
_METRICS_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{20,}")
_SSR_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BREACH_URL: Final = re.compile(r"https?://[A-Za-z0-9._:-]+(?:/[A-Za-z0-9._~-]+)*/?")
_BREACH_URL_FORM: Final = "must look like https://corpus.example.com/range, without a user, query or fragment"
_BASE_URL_FORM: Final = f"{PREFIX}BASE_URL must look like https://auth.example.com, without a user, query or fragment"
_SEPARATOR: Final = re.compile(r"[,\s]+")

FILED: Final = ("secret", "database_url", "redis_url", "ssr_keys", "metrics_token")
"""Settings that hold a credential: each may stand in a file named by `KEYTURN_<NAME>_FILE` instead."""


class Environment(StrEnum):
    """Where this runs. Only development relaxes anything."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


class Finding(NamedTuple):
    """One thing about a configuration that is unsafe."""

    code: str
    text: str
    fatal: bool
    """True: production does not start with it."""


class _Files(PydanticBaseSettingsSource):
    """Reads `KEYTURN_<NAME>_FILE`, as container platforms hand secrets over."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        variable = f"{PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        if field_name not in FILED or not path:
            return None, field_name, False
        try:
            if content := Path(path).read_text(encoding="utf-8-sig").strip():
                return content, field_name, False
            why = "nothing stands in it"
        except (OSError, UnicodeDecodeError) as fault:
            why = str(fault.strerror) if isinstance(fault, OSError) else "not UTF-8"
        # Else it may be the credential itself, in the wrong place.
        named = f"{path}: " if Path(path).is_absolute() else ""
        raise UnsafeSettings([f"{variable}: {named}{why}"])

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(None, name)[0] for name in FILED}
        # Under the name that goes before all others, so that a file beats every variable.
        return {PREFIX + name.upper(): value for name, value in values.items() if value is not None}


def _corpus(url: str) -> str:
    if origin_of(url) is None or _BREACH_URL.fullmatch(url) is None:
        raise PydanticCustomError("form", _BREACH_URL_FORM)
    return url


class Settings(BaseSettings):
    """Every setting; `Settings.load()` reads them. Durations are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    env: Environment = Environment.PRODUCTION
    database_url: SecretStr = Field(
        default=SecretStr(DEFAULT_DATABASE_URL), validation_alias=AliasChoices("KEYTURN_DATABASE_URL", "DATABASE_URL")
    )
    redis_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("KEYTURN_REDIS_URL", "REDIS_URL"))
    secret: SecretStr | None = Field(default=None, validation_alias="KEYTURN_SECRET")
    """The master key ring, `id:base64url` per line or comma."""

    base_url: str | None = None
    """Where browsers reach this server: `https://auth.example.com`."""
    base_path: str = "/auth"
    issuer: str | None = None
    audience: str | None = None
    allowed_origins: str = ""
    """Further origins, separated by commas or blanks."""
    trusted_proxies: int = Field(default=0, ge=0, le=16)
    same_site: SameSite = "Lax"

    rotation: Rotation = Rotation.CONFIRMED
    access_lifetime: float | None = None
    settle_time: float | None = None
    tail_time: float | None = None
    inactivity_timeout: float | None = None
    remembered_inactivity_timeout: float | None = None
    absolute_lifetime: float | None = None
    user_agent_drift: Drift | None = None
    address_drift: Drift | None = None
    max_sessions: int | None = None
    account_logins: int | None = None
    password_min_length: int | None = None
    breach_url: Annotated[str, AfterValidator(_corpus)] | None = None
    """The range of a corpus of breached passwords: `https://host/range`. None: passwords are not looked up."""

    signup: Literal["open", "closed"] = "open"
    denylist: bool = True
    migrate: bool = True
    """Bring the tables up to date at start; off where the server's role may not."""
    ssr_keys: SecretStr | None = Field(default=None, validation_alias="KEYTURN_SSR_KEYS")
    """Keys of render servers, `id:base64url` separated by commas or blanks."""
    login_threads: int | None = Field(default=None, ge=1, le=256)
    login_queue: int | None = Field(default=None, ge=1, le=10_000)

    imported_bcrypt_rounds: int | None = Field(default=None, ge=4, le=16)
    imported_pbkdf2_iterations: int = Field(default=0, ge=0, lt=10_000_000)
    """The costliest imported password hashes. Every login then does that work, so that none can be told."""

    debug: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_token: SecretStr | None = Field(default=None, validation_alias="KEYTURN_METRICS_TOKEN")
    metrics_port: int | None = Field(default=None, ge=1, le=65535)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, files, environment."""
        return init_settings, _Files(settings_cls), env_settings

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the settings of this process.

        Args:
            overrides: values that go before the environment, as the command line has them; None means not given.

        Raises: UnsafeSettings: a value is not of its form, a file cannot be read, or an override is no setting. It names
            the setting, and never repeats the value.
        """
        problems: list[str] = []
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})
        except ValidationError as fault:
            for error in fault.errors(include_url=False, include_context=False, include_input=False):
                name = str(error["loc"][0]).upper() if error["loc"] else "?"
                why = "there is no such setting" if error["type"] == "extra_forbidden" else error["msg"]
                problems.append(f"{PREFIX}{name.removeprefix(PREFIX)}: {why}")
        # Outside the except clause: the validation error holds the secrets it was given.
        raise UnsafeSettings(problems)

    # -- what is built from it

    @property
    def production(self) -> bool:
        return self.env is Environment.PRODUCTION

    def policy(self) -> Policy:
        """Build the policy; what is not set keeps the policy's own default.

        Raises: UnsafePolicy: the numbers break a guarantee, unless in development.
        """
        return Policy(**self.policy_numbers())

    def policy_numbers(self) -> dict[str, Any]:
        """Return what is set of the policy, and what follows from that, checked or not."""
        values: dict[str, Any] = {"rotation": self.rotation, "relaxed": not self.production}
        for name in (
            "access_lifetime",
            "settle_time",
            "tail_time",
            "inactivity_timeout",
            "user_agent_drift",
            "address_drift",
            "max_sessions",
            "account_logins",
            "password_min_length",
        ):
            values[name] = getattr(self, name)
        remembered = self.remembered_inactivity_timeout
        # One number for both kinds of session, unless the remembered one has its own.
        values["remembered_inactivity_timeout"] = self.inactivity_timeout if remembered is None else remembered
        values = {name: value for name, value in values.items() if value is not None}
        if self.absolute_lifetime is not None:
            values["remembered_absolute_lifetime"] = self.absolute_lifetime
            values["absolute_lifetime"] = min(DAY, self.absolute_lifetime)
            # A timeout nobody chose gives way to a shorter lifetime that somebody did.
            values.setdefault("inactivity_timeout", min(HOUR, self.absolute_lifetime))
            values.setdefault("remembered_inactivity_timeout", min(14 * DAY, self.absolute_lifetime))
        return values

    def secret_ring(self) -> SecretRing | None:
        """Read the master key ring; None when there is none.

        Raises: UnsafeSettings: it is malformed or weak.
        """
        if self.secret is None:
            return None
        try:
            return SecretRing.parse(self.secret.get_secret_value())
        except ValueError as fault:
            raise UnsafeSettings([f"{PREFIX}SECRET: {fault}"]) from None

    def web_config(self) -> WebConfig:
        """Build what the web layer is told.

        Raises: UnsafeSettings: an origin, a path or a render-server key is not of its form.
        """
        try:
            return WebConfig(
                base_path=self.base_path,
                own_origins=frozenset() if self.base_url is None else frozenset({self._own_origin()}),
                allowed_origins=frozenset(self._allowed_origins()),
                own_origin_from_host=not self.production and self.base_url is None,
                trusted_proxies=self.trusted_proxies,
                same_site=self.same_site,
                signup_open=self.signup == "open",
                ssr_keys=self._ssr_keys(),
                metrics_token=self.metrics_token,
            )
        except ValueError as fault:
            raise UnsafeSettings([str(fault)]) from None

    def _allowed_origins(self) -> tuple[str, ...]:
        # As they were given, without a closing slash.
        return tuple(text.rstrip("/").lower() for text in _SEPARATOR.split(self.allowed_origins) if text)

    @property
    def base_origin(self) -> str | None:
        """The origin of the base URL, with the port only where it is not the scheme's own."""
        # A password, a query or a fragment would stand in `iss` of every token.
        return None if self.base_url is None else origin_of(self.base_url)

    def _own_origin(self) -> str:
        if self.base_origin is None:
            raise ValueError(_BASE_URL_FORM)
        return self.base_origin

    @property
    def issuer_or_default(self) -> str:
        """What stands in `iss`: as set, else the base URL, else a name that only development may have."""
        return self.issuer or self.base_url or "keyturn-development"

    @property
    def audience_or_default(self) -> str:
        """What stands in `aud`: as set, else the issuer."""
        return self.audience or self.issuer_or_default

    def _ssr_keys(self) -> Mapping[str, bytes]:
        keys: dict[str, bytes] = {}
        if self.ssr_keys is None:
            return keys
        for item in _SEPARATOR.split(self.ssr_keys.get_secret_value().strip()):
            key_id, _, encoded = item.partition(":")
            if _SSR_KEY_ID.fullmatch(key_id) is None or not encoded or key_id in keys:
                raise ValueError(f"{PREFIX}SSR_KEYS: each key is id:base64url, and each id stands once")
            try:
                keys[key_id] = base64url.decode(encoded)
            except ValueError:
                raise ValueError(f"{PREFIX}SSR_KEYS: key {len(keys) + 1} is not base64url without padding") from None
        return keys

    # -- what is unsafe about it

    def findings(self) -> list[Finding]:
        """List everything unsafe that can be seen without a database; in production the fatal ones prevent a start.

        Spec: OWASP ASVS 5.0 13.2.3, 13.4.2 (no default credential, no debug mode in production).
        """
        found = [*self._secret_findings(), *self._address_findings(), *self._other_findings()]
        if not self.production:
            found = [finding._replace(fatal=False) for finding in found]
            found.append(Finding("development", f"{PREFIX}ENV is development: nothing unsafe is refused", fatal=False))
        return found

    def refuse_unsafe(self) -> None:
        """Raise UnsafeSettings when production must not start like this."""
        fatal = [f"{finding.code}: {finding.text}" for finding in self.findings() if finding.fatal]
        if fatal:
            raise UnsafeSettings(fatal)

    def _secret_findings(self) -> Iterator[Finding]:
        try:
            if self.secret_ring() is None:
                yield Finding("secret_missing", SECRET_MISSING, fatal=True)
        except UnsafeSettings as fault:
            yield Finding("secret_weak", str(fault), fatal=True)
        master = "" if self.secret is None else self.secret.get_secret_value()
        try:
            for number, key in enumerate(self._ssr_keys().values(), 1):
                said = f"{PREFIX}SSR_KEYS: key {number} is"  # its id may be the key: the two the wrong way round
                if len(key) < _MIN_SSR_KEY_BYTES:
                    yield Finding("ssr_key_short", f"{said} under {_MIN_SSR_KEY_BYTES} bytes", fatal=True)
                elif (why := weakness(key)) is not None:
                    yield Finding("ssr_key_weak", f"{said} {why}", fatal=True)
                elif base64url.encode(key) in master:
                    yield Finding(
                        "ssr_key_weak", f"{said} in {PREFIX}SECRET, which no render server may have", fatal=True
                    )
        except ValueError as fault:
            yield Finding("ssr_key_malformed", str(fault), fatal=True)
        token = None if self.metrics_token is None else self.metrics_token.get_secret_value()
        if token is not None and (
            _METRICS_TOKEN.fullmatch(token) is None or is_pattern(token.encode()) or token in master
        ):
            text = f"{PREFIX}METRICS_TOKEN needs 20 random characters or more that a Bearer token may have"
            yield Finding("metrics_token_weak", text, fatal=True)

    def _address_findings(self) -> Iterator[Finding]:
        if self.base_url is None:
            yield Finding(
                "base_url_missing",
                f"{PREFIX}BASE_URL, the https address that browsers use, is not set; to try things out: {PREFIX}ENV=development",
                fatal=True,
            )
        elif self.base_origin is None:
            yield Finding("base_url_malformed", _BASE_URL_FORM, fatal=True)
        elif self.issuer is None and self.base_url.endswith("/"):
            # Not taken away: a service compares `iss` with what it is told, and may be told either.
            text = f"{PREFIX}BASE_URL must not end with a slash: it stands in `iss` of every token"
            yield Finding("base_url_malformed", text, fatal=True)
        elif not self.base_origin.startswith("https://"):
            yield Finding("base_url_http", f"{PREFIX}BASE_URL is not https: cookies would not be sent", fatal=True)
        if self.issuer is not None and not (origin_of(self.issuer) or "").startswith("https://"):
            text = f"{PREFIX}ISSUER must be a URL with https, without a user, query or fragment"
            yield Finding("issuer_malformed", text, fatal=True)
        if self.audience is not None and _SEPARATOR.search(self.audience) is not None:
            text = f"{PREFIX}AUDIENCE is one name, without commas and blanks"
            yield Finding("audience_malformed", text, fatal=True)
        for origin in self._allowed_origins():
            if not is_origin(origin):
                text = f"{PREFIX}ALLOWED_ORIGINS: {origin!r} is not an origin {ORIGIN_FORM}"
                yield Finding("origin_malformed", text, fatal=True)
            elif origin.startswith("http://"):
                text = f"{PREFIX}ALLOWED_ORIGINS: {origin} is not https: anybody on its network writes its pages"
                yield Finding("origin_http", text, fatal=True)
        try:
            WebConfig(base_path=self.base_path)
        except ValueError:
            text = f"{PREFIX}BASE_PATH must look like /auth, without a slash at the end"
            yield Finding("base_path_malformed", text, fatal=True)

    def _other_findings(self) -> Iterator[Finding]:
        if self.debug:
            yield Finding("debug", f"{PREFIX}DEBUG is on", fatal=True)
        for problem in self._policy_problems():
            yield Finding("policy", problem, fatal=True)
        if self.breach_url is not None and self.breach_url.startswith("http://"):
            text = f"{PREFIX}BREACH_URL is not https: anybody on its way says which passwords are good"
            yield Finding("breach_url_http", text, fatal=True)
        if self.log_level == "debug":
            yield Finding(
                "log_level_debug", f"{PREFIX}LOG_LEVEL is debug: logs say more than they need to", fatal=False
            )
        if not self.denylist:
            text = f"{PREFIX}DENYLIST is off: an access token works until it expires, also after a logout"
            yield Finding("denylist_off", text, fatal=False)
        if self.rotation is Rotation.STRICT:
            text = f"{PREFIX}ROTATION is strict: two tabs or one lost response sign people out"
            yield Finding("rotation_strict", text, fatal=False)

    def _policy_problems(self) -> tuple[str, ...]:
        try:
            policy = self.policy()
        except UnsafePolicy as fault:
            return fault.problems
        return tuple(f"{problem.code}: {problem.text}" for problem in policy.problems())
