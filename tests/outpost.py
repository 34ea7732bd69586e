"""A deployment on loopback: its endpoints at real receivers, its dispatchers, and what became of its deliveries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, exists, func, insert, select, text

from dispatcher.clock import Clock
from dispatcher.engine.dispatcher import Dispatcher, open_store
from dispatcher.ids import Kind, public_id
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.rules.secrets import Secret
from dispatcher.rules.verdict import Outcome
from dispatcher.settings import Settings, load
from dispatcher.states import AttemptError, Reason
from dispatcher.store import duty_rows, transitions
from dispatcher.store.claimed import Claimed
from dispatcher.store.deployment import Deployment, open_deployment
from dispatcher.store.endpoint_rows import NewEndpoint, insert_endpoint, new_endpoint_row
from dispatcher.store.hot import Finished, HotStore
from tests.asking import PATIENCE_S as PATIENCE_S
from tests.asking import until

SECRET_KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="


def loopback_settings(url: str, **given: Any) -> Settings:
    """Settings under which receivers on this machine are reached, and retries come exactly when they should."""
    return load(
        **{
            "database_url": url,
            "secret_key": SECRET_KEY,
            "allow_http": True,
            "allow_networks": "127.0.0.0/8",
            "retry_jitter": 0.0,
            # A test's clock leaps over hours, and the heartbeat, which runs in real time, does not follow.
            "lease": "10d",
            **given,
        }
    )


@dataclass(frozen=True, slots=True)
class Registered:
    """An endpoint that was registered."""

    row: int
    secret: str

    @property
    def id(self) -> str:
        return public_id(Kind.ENDPOINT, self.row)


class Outpost:
    """One deployment; every dispatcher and store that it makes works on the same database with the same clock."""

    def __init__(self, url: str, clock: Clock, **given: Any) -> None:
        self.settings = loopback_settings(url, **given)
        self.clock = clock
        self.deployment: Deployment = open_deployment(self.settings, clock)
        self.database = self.deployment.database
        self.tables = self.database.tables

    async def close(self) -> None:
        await self.database.close()

    def dispatcher(self, **given: Any) -> Dispatcher:
        """A dispatcher that is not started yet, with other settings where given."""
        settings = self.settings if not given else self.settings.model_copy(update=given)
        return Dispatcher(settings=settings, clock=self.clock)

    async def sees(self, query: str | Select[Any]) -> None:
        """Returns as soon as a query finds something."""
        asked = select(exists(query) if isinstance(query, Select) else text(f"EXISTS ({query})"))

        async def found() -> bool:
            async with self.database.read() as connection:
                return bool((await connection.execute(asked)).scalar_one())

        await until(found)

    @asynccontextmanager
    async def store(self, *, lease_s: float = 1e8, name: str = "test", **given: Any) -> AsyncIterator[HotStore]:
        """An enrolled hot store."""
        opened = open_store(self.database, self.settings.model_copy(update=given))
        try:
            await opened.enrol(name, lease_s)
            yield opened
        finally:
            await opened.close()

    async def endpoint(
        self, url: str = "http://127.0.0.1:8000/", *, tenant: str = "default", secret: str | None = None, **fields: Any
    ) -> Registered:
        """Registers an endpoint; `fields` are `NewEndpoint`'s, its row a random one unless it is given."""
        fields.setdefault("row_id", new_endpoint_row())
        chosen = Secret.parse(secret) if secret is not None else Secret.generate()
        new = NewEndpoint(
            tenant=tenant,
            url=CallbackUrl.parse(url, self.deployment.egress),
            secret=chosen,
            **fields,
        )
        async with self.database.begin() as connection:
            made = await connection.run_sync(
                insert_endpoint, self.tables, self.deployment.keyring, new, self.database.now()
            )
        assert made
        return Registered(new.row_id, chosen.text)

    async def publish(
        self,
        *types: str,
        tenant: str = "default",
        job_id: str | None = None,
        kind: str | None = None,
        data: str = "{}",
    ) -> None:
        """Inserts events, in one transaction and in this order, as a producer's plain SQL does."""
        events = self.tables.events
        async with self.database.begin() as connection:
            for event_type in types or ("job.step",):
                await connection.execute(
                    insert(events).values(
                        tenant=tenant,
                        type=event_type,
                        data=data,
                        job_id=job_id,
                        kind=kind,
                        timestamp=self.database.now(),
                        created_at=self.database.now(),
                    )
                )

    async def rows(self, table: str, *order: str) -> list[Any]:
        """All rows of a table, in the order of the given columns (else of `row_id`)."""
        chosen = getattr(self.tables, table)
        columns = [chosen.c[name] for name in order or ("row_id",)]
        async with self.database.read() as connection:
            return list(await connection.execute(select(chosen).order_by(*columns)))

    async def deliveries(self) -> list[Any]:
        return await self.rows("deliveries")

    async def delivery(self) -> Any:
        """The only delivery."""
        (row,) = await self.deliveries()
        return row

    async def delivery_to(self, endpoint: Registered) -> Any:
        """The only delivery to an endpoint."""
        (row,) = [row for row in await self.deliveries() if row.endpoint_row == endpoint.row]
        return row

    async def destination(self) -> Any:
        """The only destination."""
        (row,) = await self.rows("destinations")
        return row

    async def letters(self) -> list[Any]:
        return await self.rows("dead_letters")

    async def attempts(self) -> list[Any]:
        return await self.rows("attempts", "delivery_row", "number")

    async def count(self, table: str) -> int:
        chosen = getattr(self.tables, table)
        async with self.database.read() as connection:
            counted: int = (await connection.execute(select(func.count()).select_from(chosen))).scalar_one()
            return counted

    async def endpoint_now(self, endpoint: Registered) -> Any:
        """The endpoint's row and what dispatchers know of it."""
        e, s = self.tables.endpoints, self.tables.endpoint_state
        async with self.database.read() as connection:
            return (
                await connection.execute(
                    select(e, s).join(s, s.c.endpoint_row == e.c.row_id).where(e.c.row_id == endpoint.row)
                )
            ).one()

    async def holds(self, condition: duty_rows.Condition) -> bool:
        """Whether there is anything for a duty to do now."""
        async with self.database.read() as connection:
            return bool(await connection.scalar(select(condition(self.database, self.database.now()))))

    async def put_back(self, *deliveries: Any) -> list[transitions.PutBack]:
        """Asks for deliveries to be sent again."""
        async with self.database.begin() as connection:
            return await transitions.put_back(
                connection, self.database, [(row.event_row, row.endpoint_row) for row in deliveries]
            )

    async def cancel(self, delivery: Any) -> bool:
        async with self.database.begin() as connection:
            return await transitions.cancel_delivery(connection, self.database, delivery.row_id, Reason.OPERATOR)

    async def change(self, table: str, row: int, **values: Any) -> None:
        """Sets columns of one row, by its `row_id` or `endpoint_row`."""
        chosen = getattr(self.tables, table)
        key = chosen.c.endpoint_row if table == "endpoint_state" else chosen.c.row_id
        async with self.database.begin() as connection:
            await connection.execute(chosen.update().where(key == row).values(**values))


def finished(
    claimed: Claimed,
    outcome: Outcome = Outcome.DELIVERED,
    *,
    at: datetime,
    error: AttemptError | None = None,
    status: int | None = None,
    delay_s: float | None = 5.0,
    hold_s: float | None = 900.0,
    backs_off: bool = False,
    pause_endpoint_s: float | None = None,
) -> Finished:
    """The outcome of a claimed attempt: a 200, or a 500 with what follows from it."""
    good, interrupted = outcome is Outcome.DELIVERED, outcome is Outcome.INTERRUPTED
    if not good and error is None:
        error = AttemptError.INTERRUPTED if interrupted else AttemptError.HTTP_STATUS
    return Finished(
        delivery_row=claimed.delivery_row,
        endpoint_row=claimed.endpoint_row,
        dispatcher_row=claimed.dispatcher_row,
        attempt=claimed.attempt,
        lane=claimed.lane,
        outcome=outcome,
        reason={Outcome.DEAD: Reason.EXHAUSTED, Outcome.DROPPED: Reason.SUPERSEDED}.get(outcome),
        error=error,
        status=status if status is not None else (200 if good else None if interrupted else 500),
        failures=claimed.failures + (not good and not interrupted),
        interruptions=claimed.interruptions + 1 if interrupted else 0,
        delay_s=delay_s if outcome is Outcome.RETRY else None,
        hold_s=hold_s,
        pause_endpoint_s=pause_endpoint_s,
        backs_off=backs_off,
        started_at=at,
        duration_ms=1.0,
        excerpt="",
        progress_of=claimed.progress_of,
        destination_row=claimed.destination_row,
        watched=claimed.watched,
    )
