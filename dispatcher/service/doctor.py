"""The operator's examination: every part of a deployment looked at, each finding with what to do about it."""

import os
import shutil
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from dispatcher.clock import SystemClock
from dispatcher.errors import ConfigurationError, SchemaError, StoreUnavailable
from dispatcher.ids import Kind, public_id
from dispatcher.service.encryption import under_other_keys
from dispatcher.service.keys import SHORTEST_ADMIN_KEY
from dispatcher.service.moments import moment_now
from dispatcher.settings import Settings
from dispatcher.states import EndpointStatus, Reason
from dispatcher.store.database import Database, open_database
from dispatcher.store.deployment import egress_rules, open_keyring
from dispatcher.store.endpoint_fields import endpoint_defaults
from dispatcher.store.endpoint_policies import check_keyring
from dispatcher.store.migrate import check
from dispatcher.transport.tls import Trust
from dispatcher.units import format_size

#: How far this host's clock may be from the database's, in seconds.
CLOCK_TOLERANCE_S = 2.0

#: Less disk than this beside a SQLite file is a finding.
_LEAST_FREE_BYTES = 100 * 1024 * 1024

#: A client certificate that ends sooner is a finding.
CERTIFICATE_NOTICE = timedelta(days=30)
#: So many of them are named.
_MOST_NAMED = 10

_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found; `remedy` says what to do, and is empty where nothing is to be done."""

    check: str
    ok: bool
    detail: str
    remedy: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Looks at settings, egress, database, clock, schema, keys and dispatchers; changes nothing."""
    findings = [_examine_settings(settings), _examine_defaults(settings), _examine_egress(settings)]
    try:
        database = open_database(settings, SystemClock())
    except ConfigurationError as error:
        return [*findings, Finding("database", False, str(error), "correct DISPATCHER_DATABASE_URL")]
    try:
        findings.append(await _examine_database(database))
        if findings[-1].ok:
            findings += [await _examine_clock(database), await _examine_schema(database)]
        if findings[-1].ok:
            findings += [
                await _examine_keys(settings, database),
                await _examine_dispatchers(database),
                await _examine_rows(database),
                await _examine_certificates(database),
            ]
    finally:
        await database.close()
    return findings


def _examine_settings(settings: Settings) -> Finding:
    notes = []
    if settings.admin_key is None:
        notes.append("no DISPATCHER_ADMIN_KEY: `dispatcher serve` makes one at each start")
    elif len(settings.admin_key.get_secret_value()) < SHORTEST_ADMIN_KEY:
        return Finding(
            "settings",
            False,
            f"DISPATCHER_ADMIN_KEY is shorter than {SHORTEST_ADMIN_KEY} characters: it can be guessed",
            "make a key with: openssl rand -hex 32",
        )
    if settings.lease <= settings.poll_interval:
        return Finding(
            "settings",
            False,
            "DISPATCHER_LEASE is not longer than DISPATCHER_POLL_INTERVAL: leases end while their holder sleeps",
            "set DISPATCHER_LEASE to several times the poll interval",
        )
    return Finding("settings", True, "; ".join(notes) or "read without a complaint")


def _examine_defaults(settings: Settings) -> Finding:
    try:
        given = endpoint_defaults(settings)
    except ConfigurationError as error:
        return Finding("endpoint defaults", False, str(error), "correct the fields that are named")
    return Finding("endpoint defaults", True, ", ".join(sorted(given)) or "none")


def _examine_egress(settings: Settings) -> Finding:
    try:
        rules = egress_rules(settings)
        Trust(settings.ca_file)
    except ConfigurationError as error:
        return Finding("egress", False, str(error), "correct the setting that is named")
    schemes = "http and https" if settings.allow_http else "https only"
    networks = ", ".join(str(network) for network in settings.allow_networks)
    denied = ", ".join(str(network) for network in settings.deny_networks)
    told = ", ".join(settings.egress_addresses) or "none (set DISPATCHER_EGRESS_ADDRESSES for receivers' allow lists)"
    parts = [
        schemes,
        f"public addresses and {networks}" if networks else "public addresses only",
        *([f"never {denied}"] if denied else []),
        *([f"only to {', '.join(settings.allow_hosts)}"] if settings.allow_hosts else []),
        *([f"through the proxy {rules.proxy.shown}, which resolves names"] if rules.proxy is not None else []),
        f"addresses told to receivers: {told}",
    ]
    if settings.ca_file is not None:
        parts.append(f"receivers are trusted by {settings.ca_file} too")
    proxies = [name for name in _PROXY_VARIABLES if os.environ.get(name)]
    if proxies:
        parts.append(f"{', '.join(proxies)} is ignored: DISPATCHER_PROXY names a proxy for deliveries")
    return Finding("egress", True, "; ".join(parts))


async def _examine_database(database: Database) -> Finding:
    file = database.url.file
    if file is not None:
        if not file.exists():
            return Finding(
                "database", False, f"{file} does not exist yet", "start `dispatcher serve`, or run: dispatcher migrate"
            )
        free = shutil.disk_usage(file.resolve().parent).free
        if free < _LEAST_FREE_BYTES:
            return Finding("database", False, f"{format_size(free)} of disk are left beside {file}", "make room")
    try:
        async with database.read() as connection:
            await connection.execute(select(1))
    except StoreUnavailable as error:
        return Finding("database", False, str(error), f"see that {database.url.shown} runs and is reachable")
    except DBAPIError as error:
        refusal = type(error.orig).__name__
        return Finding("database", False, f"it refuses ({refusal})", f"see name and password of {database.url.shown}")
    return Finding("database", True, database.url.shown)


async def _examine_clock(database: Database) -> Finding:
    async with database.read() as connection:
        theirs = await moment_now(connection, database)
    off_s = abs((database.clock.now() - theirs).total_seconds())
    if off_s > CLOCK_TOLERANCE_S:
        return Finding(
            "clock",
            False,
            f"this host and the database differ by {off_s:.1f} s; receivers refuse signatures that are 5 minutes off",
            "synchronise both with NTP",
        )
    return Finding("clock", True, f"within {CLOCK_TOLERANCE_S:g} s of the database's")


async def _examine_schema(database: Database) -> Finding:
    try:
        await check(database)
    except SchemaError as error:
        return Finding("schema", False, str(error), "dispatcher migrate")
    return Finding("schema", True, "up to date")


async def _examine_keys(settings: Settings, database: Database) -> Finding:
    file = database.url.file
    if not settings.names_keys and file is not None and not file.with_name(file.name + ".key").exists():
        secrets = database.tables.endpoint_secrets.c.row_id
        async with database.read() as connection:
            sealed = (await connection.execute(select(secrets).limit(1))).first() is not None
        if sealed:
            return Finding(
                "key ring", False, f"the key file beside {file} is missing", "restore it, or set DISPATCHER_SECRET_KEY"
            )
        return Finding("key ring", True, "a key file is made with the first secret")
    try:
        keyring = open_keyring(settings, database.url.file)
        await check_keyring(database, keyring)
    except ConfigurationError as error:
        return Finding("key ring", False, str(error), "put the key that encrypted it into DISPATCHER_SECRET_KEY")
    async with database.read() as connection:
        total, old, foreign = await under_other_keys(connection, database, keyring)
    if foreign:
        return Finding(
            "key ring",
            False,
            f"{foreign} of {total} encrypted values are under keys that it does not hold",
            "put the keys that encrypted them into DISPATCHER_SECRET_KEY",
        )
    keys = f"{len(keyring.keys)} key{'s' * (len(keyring.keys) > 1)}"
    if not total:
        return Finding("key ring", True, f"{keys}; nothing is stored yet")
    if old:
        follows = f"{old} of {total} values are under an older key: `dispatcher keys rotate-encryption` moves them"
        return Finding("key ring", True, f"{keys}; {follows}")
    spare = "; the older ones encrypt nothing any more and can go" if len(keyring.keys) > 1 else ""
    return Finding("key ring", True, f"{keys}; opens what is stored, all of it under the first{spare}")


async def _examine_rows(database: Database) -> Finding:
    letters, rejected = database.tables.dead_letters.c, database.tables.rejected_events.c
    unreadable = select(func.count()).where(letters.reason == Reason.UNREADABLE, letters.redelivered_at.is_(None))
    async with database.read() as connection:
        given_up = (await connection.execute(unreadable)).scalar_one()
        refused = (await connection.execute(select(func.count(rejected.event_row)))).scalar_one()
    if given_up or refused:
        return Finding(
            "rows",
            False,
            f"{given_up} deliveries and {refused} events could not be read",
            "look at `dispatcher dead-letters list --reason unreadable` and the table rejected_events; mend what they"
            " name, then redeliver, or publish the event again; discard what cannot be mended",
        )
    return Finding("rows", True, "none was found unreadable")


async def _examine_certificates(database: Database) -> Finding:
    e = database.tables.endpoints.c
    async with database.read() as connection:
        now = await moment_now(connection, database)
        soon = (
            await connection.execute(
                select(e.row_id, e.client_certificate_expires_at)
                .where(
                    e.client_certificate_expires_at < now + CERTIFICATE_NOTICE,
                    e.status != EndpointStatus.DISABLED,
                    e.deleted_at.is_(None),
                )
                .order_by(e.client_certificate_expires_at)
                .limit(_MOST_NAMED + 1)
            )
        ).all()
    if not soon:
        return Finding("client certificates", True, f"none ends within {CERTIFICATE_NOTICE.days} days")
    named = ", ".join(f"{public_id(Kind.ENDPOINT, row)} ({ends:%Y-%m-%d})" for row, ends in soon[:_MOST_NAMED])
    return Finding(
        "client certificates",
        False,
        f"ended, or end within {CERTIFICATE_NOTICE.days} days: {named}{' and more' if len(soon) > _MOST_NAMED else ''}",
        "dispatcher endpoints update EP_ID --client-certificate @FILE, and --client-key @FILE unless the key stays",
    )


async def _examine_dispatchers(database: Database) -> Finding:
    dispatchers, queue = database.tables.dispatchers.c, database.tables.fanout_queue
    async with database.read() as connection:
        alive = (
            await connection.execute(select(func.count()).where(dispatchers.leased_until > database.now()))
        ).scalar_one()
        waits = (await connection.execute(select(queue.c.event_row).limit(1))).first() is not None
    if not alive and waits:
        return Finding(
            "dispatchers",
            False,
            "events wait and no dispatcher is alive",
            "start `dispatcher serve` or `dispatcher work`",
        )
    return Finding("dispatchers", True, f"{alive} alive")
