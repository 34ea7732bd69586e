"""Every setting, once: its name, what it may be, its default and its help."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from dispatcher.settings.values import (
    DatabaseUrl,
    Duration,
    JsonObject,
    Networks,
    Ports,
    PositiveDuration,
    Schedule,
    SecretKeys,
    Size,
    Texts,
    TranslationPrefixes,
    parse_keys,
    read_schedule,
)
from dispatcher.states import EventKind

_URI_REFERENCE = r"^(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$"
_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,39}$"


class Settings(BaseSettings):
    """The settings of a deployment; each is `DISPATCHER_` and its name in upper case."""

    model_config = SettingsConfigDict(
        env_prefix="DISPATCHER_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    database_url: DatabaseUrl = Field(
        "sqlite+aiosqlite:///dispatcher.db",
        repr=False,
        description="The database that holds the outbox: `sqlite:///file.db`, or `postgresql://user@host/name`"
        " (several hosts: `host1,host2`).",
    )
    schema_: str | None = Field(
        None,
        validation_alias="DISPATCHER_SCHEMA",
        pattern=_NAME,
        description="PostgreSQL schema of the tables; unset: the connection's own.",
    )
    table_prefix: str = Field(
        "", pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,28})?$", description="Put before each table's name."
    )
    admin_key: SecretStr | None = Field(
        None, description="The API key that sees every tenant; unset: `serve` makes one and prints it."
    )
    secret_key: SecretKeys | None = Field(
        None,
        description="Base64 32-byte keys, comma-separated, that encrypt secrets at rest; the first encrypts, all"
        " decrypt. Unset with SQLite: a key file beside the database. PostgreSQL requires it.",
    )
    secret_key_command: SecretStr | None = Field(
        None,
        description="A command that prints these keys instead, like `vault kv get -field=keys secret/dispatcher`: run"
        " at each start, without a shell, for 10 seconds at most.",
    )
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the API; 0 = any free one, printed at start.")
    work_port: int | None = Field(
        None, ge=0, le=65535, description="Port of `work`'s health and metrics pages; unset: none."
    )
    allow_http: bool = Field(False, description="Accept callback URLs with http: (development, private networks).")
    allow_networks: Networks = Field(
        (),
        description="CIDRs that the egress guard lets through though they are not public, like `127.0.0.0/8,::1/128`.",
    )
    ca_file: Path | None = Field(
        None,
        description="A file of certificates in PEM that receivers' TLS is trusted by too, beside the system's"
        " authorities; read at start.",
    )
    deny_networks: Networks = Field(
        (), description="CIDRs that nothing is ever sent to, whatever else allows them, like your own public networks."
    )
    nat64_prefixes: TranslationPrefixes = Field(
        (),
        description="Prefixes by which this network translates IPv6 to IPv4, of 32, 40, 48, 56, 64 or 96 bits, beside"
        " `64:ff9b::/96`: an address in them is judged as the IPv4 address that it stands for.",
    )
    allow_hosts: Texts = Field(
        (),
        description="The only hosts that are sent to, names and `*.example.com`, comma-separated; unset: any. What they"
        " resolve to must be allowed too.",
    )
    allow_ports: Ports = Field(
        ((80, 80), (443, 443), (1024, 65535)), description="Ports that callback URLs may name, less those denied."
    )
    deny_ports: Ports | None = Field(
        None,
        description="Ports that they may not name; `none`: all that are allowed. Unset: those of well-known services"
        " (databases, brokers, container APIs).",
    )
    proxy: SecretStr | None = Field(
        None,
        description="Deliver through this HTTP proxy, by CONNECT: `http://user:password@host:port`. It resolves the"
        " names.",
    )
    no_proxy: Texts = Field(
        (), description="Hosts that are connected to directly all the same: names, `*.example.com`, CIDRs."
    )
    verify_endpoints: bool = Field(
        False,
        description="Send to a callback URL only after it has answered a challenge, so that nobody points deliveries at"
        " somebody else; producers need it too. A tenant may have a rule of its own.",
    )
    egress_addresses: Texts = Field(
        (), description="The addresses that deliveries come from, told to receivers under /v1/egress."
    )
    source: str = Field(
        "/dispatcher",
        max_length=1000,
        pattern=_URI_REFERENCE,
        description="The `source` of CloudEvents: a URI reference that names your system, like `https://api.example.com`.",
    )
    retry_schedule: Schedule = Field(
        read_schedule("5s,5m,30m,2h,5h,10h,14h,20h,24h"), description="Delays before the 2nd, 3rd, … attempt."
    )
    retry_jitter: float = Field(0.2, ge=0, lt=1, description="Share by which each delay varies at random, both ways.")
    retry_after_max: Duration = Field(timedelta(hours=24), description="The longest Retry-After that is obeyed.")
    timeout: PositiveDuration = Field(timedelta(seconds=20), description="Time for a whole attempt.")
    connect_timeout: PositiveDuration = Field(timedelta(seconds=5), description="Time for its TCP and TLS connection.")
    client: Literal["aiohttp", "lean"] = Field(
        "aiohttp",
        description="The HTTP client that delivers: `lean` takes less CPU, and has the same limits and protections.",
    )
    max_in_flight: int = Field(1000, ge=1, le=100_000, description="Attempts at once in one process.")
    max_in_flight_per_endpoint: int = Field(
        50, ge=1, le=100_000, description="Attempts at once to one endpoint, in the whole deployment."
    )
    max_in_flight_per_destination: int = Field(
        200, ge=1, le=100_000, description="Attempts at once to one scheme, host and port, in the whole deployment."
    )
    max_in_flight_per_unverified_destination: int = Field(
        5,
        ge=1,
        le=100_000,
        description="Attempts at once of jobs' callbacks to one destination that never answered 2xx, in the whole"
        " deployment.",
    )
    unverified_rate: float = Field(
        10.0,
        gt=0,
        le=100_000,
        allow_inf_nan=False,
        description="Attempts per second of jobs' callbacks to one such destination, in the whole deployment; and"
        " challenges to any.",
    )
    callback_grace: Duration = Field(
        timedelta(hours=1), description="How long a job's callback outlives its job, once nothing waits for it."
    )
    max_readers: int = Field(
        5000, ge=1, le=100_000, description="Long-polls and streams of jobs' events at once in one process of the API."
    )
    max_connections: int = Field(
        6000,
        ge=1,
        le=1_000_000,
        description="Connections of clients at once to one process of the API, readers among them; what comes beyond is"
        " answered 503.",
    )
    tls_cert: Path | None = Field(
        None, description="PEM file with the certificate chain that `serve` answers HTTPS with; unset: plain HTTP."
    )
    tls_key: Path | None = Field(
        None, description="PEM file with the certificate's private key; unset: it is in the same file."
    )
    trusted_proxies: Networks = Field(
        (), description="CIDRs of reverse proxies, whose `X-Forwarded-For` is believed about who calls."
    )
    tenant_max_endpoints: int | None = Field(
        None, ge=0, le=10_000_000, description="Endpoints of a tenant at once, unless it has a quota of its own."
    )
    tenant_events_per_s: float | None = Field(
        None,
        ge=0.001,
        le=1_000_000,
        allow_inf_nan=False,
        description="Events that a tenant publishes per second through one process of the API, unless it has a quota of"
        " its own.",
    )
    poll_interval: PositiveDuration = Field(
        timedelta(seconds=1), description="How often to look for work when nothing wakes the dispatcher."
    )
    lease: PositiveDuration = Field(
        timedelta(seconds=10),
        description="How long a dispatcher's claims outlive its last heartbeat; renewed every third of it.",
    )
    shutdown_grace: Duration = Field(timedelta(seconds=10), description="Time for attempts in flight at a stop.")
    max_payload: Size = Field(256 * 1024, ge=1, description="The largest `data`, as compact UTF-8 JSON.")
    retention: Duration = Field(timedelta(days=30), description="How long settled events and deliveries are kept.")
    dead_letter_retention: Duration = Field(timedelta(days=90), description="How long dead letters are kept.")
    endpoint_defaults: JsonObject[Any] = Field(
        default_factory=dict, repr=False, description="JSON: endpoint fields for endpoints that do not give them."
    )
    event_kinds: JsonObject[EventKind] = Field(
        default_factory=dict,
        description="JSON: event type, or glob like `job.*`, to `state`, `progress` or `terminal`, before the built-in"
        " kinds (`job.progress` is progress; `job.completed`, `job.failed`, `job.canceled`, `job.rejected` are"
        " terminal; all else is state).",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: console on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level logged.")

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if self.secret_key is not None and self.secret_key_command is not None:
            raise ValueError("DISPATCHER_SECRET_KEY and DISPATCHER_SECRET_KEY_COMMAND are both set; set one of them")
        return self

    @property
    def schema_name(self) -> str | None:
        """The PostgreSQL schema of the tables, if one is set."""
        return self.schema_

    @property
    def names_keys(self) -> bool:
        """Whether they say where the key ring's keys are; else it is a file beside a SQLite database."""
        return self.secret_key is not None or self.secret_key_command is not None

    @property
    def secret_keys(self) -> tuple[bytes, ...]:
        """The key ring's keys that are set, the encrypting one first; empty when none is."""
        return () if self.secret_key is None else parse_keys(self.secret_key.get_secret_value())
