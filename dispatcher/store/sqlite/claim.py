"""The claim on SQLite: the same choice as on PostgreSQL, made endpoint by endpoint in one write transaction."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dispatcher.rules.sharing import dice, guaranteed_again, in_turn, spin
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.hot import Limits
from dispatcher.store.sqlite.connection import Connection, as_json, as_object, from_json
from dispatcher.store.sqlite.room import Guests, Open
from dispatcher.store.sqlite.taken import Taken
from dispatcher.store.sqlite.window import CLAIMABLE, Window
from dispatcher.store.tables import Tables


class Claim:
    """The statements of the claim, for one set of tables, and where the last one stopped."""

    def __init__(self, tables: Tables, limits: Limits, *, source: str) -> None:
        name = tables.name
        self._limits = limits
        self._source = source
        self._claims = 0
        self._any = f"SELECT EXISTS (SELECT 1 FROM {name('deliveries')} d WHERE {CLAIMABLE})"
        self._window = Window(tables)
        self._flight = f"""
            SELECT json_group_array(row_id), json_group_array(attempts + 0), json_group_array(endpoint_row)
            FROM {name("deliveries")} INDEXED BY "ix_{tables.prefix}deliveries_sending" WHERE state = 'sending'
        """
        self._homes = f"""
            SELECT json_array(row_id, destination_row, tenant, job_id IS NOT NULL) AS j
            FROM {name("endpoints")} WHERE row_id IN (SELECT value FROM json_each(?))
        """

        def candidates(fresh: str) -> str:
            return f"""
                COALESCE((SELECT group_concat(j, ',') FROM (
                    SELECT json_array(d.row_id, d.lane, d.sequence) AS j
                    FROM {name("deliveries")} d INDEXED BY "ix_{tables.prefix}deliveries_claim"
                    WHERE d.tenant = asked.value AND d.endpoint_row = CAST(asked.key AS INTEGER)
                      AND d.fresh = {fresh} AND {CLAIMABLE}
                      AND (d.lane IS NULL OR NOT EXISTS (
                          SELECT 1 FROM {name("deliveries")} busy WHERE busy.lane = d.lane
                          AND busy.endpoint_row = d.endpoint_row AND busy.state = 'sending'))
                    ORDER BY d.row_id LIMIT ?2)), '')
            """

        self._candidates = f"""
            SELECT '[[' || {candidates("true")} || '],[' || {candidates("false")} || ']]' AS j FROM json_each(?1) asked
        """
        self._spend = f"UPDATE {name('endpoint_state')} SET tokens = ?, tokens_at = ? WHERE endpoint_row = ?"
        self._spend_as_guest = f"UPDATE {name('destinations')} SET tokens = ?, tokens_at = ? WHERE row_id = ?"
        self._take = f"""
            UPDATE {name("deliveries")} AS d
            SET state = 'sending', attempts = d.attempts + 1, dispatcher_row = ?2, updated_at = ?3,
                attempted_at = CASE WHEN d.progress_of IS NOT NULL THEN ?3 END,
                body_profile = COALESCE(d.body_profile, ?4),
                previous_sequence = CASE WHEN d.lane IS NULL OR d.previous_sequence IS NOT NULL
                    THEN d.previous_sequence ELSE COALESCE((
                        SELECT b.sequence FROM {name("deliveries")} b
                        WHERE b.lane = d.lane AND b.endpoint_row = d.endpoint_row AND b.sequence < d.sequence
                          AND b.lane IS NOT NULL AND b.attempts > 0 ORDER BY b.sequence DESC LIMIT 1), 0) END
            WHERE d.row_id IN (SELECT value FROM json_each(?1))
              AND EXISTS (SELECT 1 FROM {name("dispatchers")} me WHERE me.row_id = ?2 AND me.leased_until > ?3)
        """
        self._taken = Taken(tables)

    def anything(self, connection: Connection) -> bool:
        """Whether there is something to claim at all; asked before a write transaction is opened for nothing."""
        return bool(connection.one(self._any))

    def run(
        self, connection: Connection, limit: int, dispatcher_row: int, now: int, ended: Sequence[tuple[int, int]]
    ) -> ClaimedBatch:
        """Claims for a window of endpoints, inside the caller's transaction; the next claim looks behind it."""
        endpoints, homeless, unseen = self._window.look(connection, now)
        if not endpoints:
            return ClaimedBatch((), limited=unseen, homeless=homeless)
        self._claims += 1
        in_flight = self._in_flight(connection, ended)
        crowd: Counter[int] = Counter()
        held: Counter[str] = Counter()
        guests = Guests(self._limits, now)
        homes = connection.rows(self._homes, (as_json(in_flight),)) if in_flight else []
        for endpoint_row, destination, tenant, callback in homes:
            count = in_flight[endpoint_row]
            crowd[destination] += count
            held[tenant] += count
            if callback:
                guests.present(destination, count)
        # One process dispatches here, so whatever is in flight is in its slots.
        free = self._limits.per_process - in_flight.total()
        throw = dice(self._claims)
        spun = spin(throw)
        open_: list[Open] = []
        for row in endpoints:
            one = Open(row, in_flight[row[0]], self._limits, limit, self._source, now)
            one.room = min(one.room, one.most_at_destination - crowd[one.destination])
            if one.guest:
                one.room = min(one.room, guests.room(one))
            if one.room > 0:
                open_.append(one)
        share = max(1, -(-limit // max(1, len(open_))))
        tenants = Counter(one.tenant for one in open_)
        for one in open_:
            # Or a tenant's share, where it has few endpoints beside others' many.
            one.room = min(one.room, max(share, -(-limit // (len(tenants) * tenants[one.tenant]))))
        # Each of them gives one at least, so no more of them are looked at than may go.
        asked = in_turn(
            ((one.tenant, one.in_flight + 1, one.row ^ spun, one) for one in open_),
            held,
            free=free,
            slots=self._limits.per_process,
            most=limit,
        )
        candidates = self._heads(connection, [one for one in asked if one.room <= share], share, throw)
        favoured = [one for one in asked if one.room > share]
        if favoured:
            candidates += self._heads(connection, favoured, max(one.room for one in favoured), throw)
        candidates.sort(key=lambda candidate: (candidate[0].guest, candidate[1], candidate[2]))
        left: list[tuple[str, int, int, tuple[Open, int]]] = []
        for one, place, delivery_row in candidates:
            if crowd[one.destination] < one.most_at_destination and (not one.guest or guests.take(one)):
                crowd[one.destination] += 1
                left.append((one.tenant, place, delivery_row, (one, delivery_row)))
        chosen = in_turn(left, held, free=free, slots=self._limits.per_process, most=limit)
        if not chosen:
            return ClaimedBatch((), limited=unseen, starved=True, homeless=homeless)
        taken = Counter(one for one, _ in chosen)
        for one, count in taken.items():
            if one.tokens is not None:
                connection.run(self._spend, (one.tokens - count, now, one.row))
        for destination, tokens in guests.spent(one for one, _ in chosen if one.guest):
            connection.run(self._spend_as_guest, (tokens, now, destination))
        profiles: dict[str, list[int]] = {}
        for one, delivery_row in chosen:
            profiles.setdefault(one.profile, []).append(delivery_row)
        for profile, rows in profiles.items():
            connection.run(self._take, (as_json(rows), dispatcher_row, now, profile))
        claimed = self._taken.read(connection, chosen, dispatcher_row)
        limited = unseen or len(claimed) >= min(limit, share)
        return ClaimedBatch(claimed, limited=limited, starved=True, homeless=homeless)

    def _in_flight(self, connection: Connection, ended: Sequence[tuple[int, int]]) -> Counter[int]:
        """Attempts in flight by endpoint, less those that have ended."""
        over = set(ended)
        found = zip(*map(from_json, connection.row(self._flight)), strict=True)
        return Counter(endpoint_row for row, attempt, endpoint_row in found if (row, attempt) not in over)

    def _heads(
        self, connection: Connection, asked: Sequence[Open], most: int, throw: float
    ) -> list[tuple[Open, int, int]]:
        """What can go to each, one of each lane, at which place of the endpoint's in flight."""
        result: list[tuple[Open, int, int]] = []
        found = connection.rows(self._candidates, (as_object({one.row: one.tenant for one in asked}), most))
        for one, (fresh, again) in zip(asked, found, strict=True):
            left = max(one.room - len(fresh), guaranteed_again(one.room, throw))
            lanes: dict[Any, tuple[int, int, int]] = {}
            for place, (row_id, lane, sequence) in enumerate((again[:left] + fresh)[: one.room], one.in_flight + 1):
                key = ("alone", row_id) if lane is None else lane
                if key not in lanes or sequence < lanes[key][2]:
                    lanes[key] = place, row_id, sequence
            result += [(one, place, row_id) for place, row_id, _ in lanes.values()]
        return result
