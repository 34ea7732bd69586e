"""The claim on PostgreSQL: from what is pending to the endpoints that have room, never the other way round."""

from collections.abc import Sequence
from datetime import datetime

from dispatcher.rules.sharing import SPIN, dice
from dispatcher.store.claimed import Claimed, ClaimedBatch
from dispatcher.store.hot import Limits
from dispatcher.store.other_tenants import OTHERS_HEADS, START, OtherTenants
from dispatcher.store.postgres.connection import Driver, integers
from dispatcher.store.postgres.deciding import KEPT, cut, decide
from dispatcher.store.postgres.looking import UNSEEN_S, flight, second_look, tokens
from dispatcher.store.postgres.marks import Looks, Marks, Place
from dispatcher.store.postgres.taking import ABOUT, TAKEN, about, take
from dispatcher.store.postgres.window import CHOSEN, WINDOW, firsts, look_around
from dispatcher.store.tables import Tables


class Claim:
    """The statement of the claim, for one set of tables, and where the last one stopped."""

    def __init__(self, tables: Tables, limits: Limits, *, source: str) -> None:
        self._limits = limits
        self._source = source
        self._cursor = START
        self._others = OtherTenants()
        self._claims = 0
        self.looks = Looks()
        self.marks: Marks[Place] = Marks()
        #: The earliest claim that may be in flight, as a Unix time; null: anything.
        self.flight_since: float | None = None
        self.setup = _function(tables)
        columns = ", ".join(f'"{column}" {type_}' for column, type_ in (ABOUT | TAKEN).items())
        self._call = f"""
            SELECT * FROM pg_temp.dispatcher_claim(
                $1, COALESCE($2, clock_timestamp()), $3, $4, $5, $6, $7::text::bigint[], $8::text::int[], $9, $10, $11,
                $12, $13, $14, $15, $16, COALESCE(to_timestamp($17::float8), '-infinity'), $18, $19, $20, $21
            ) AS c({columns})
        """

    async def run(
        self,
        driver: Driver,
        limit: int,
        dispatcher_row: int,
        now: datetime | None,
        ended: Sequence[tuple[int, int]],
    ) -> ClaimedBatch:
        """Claims for a window of endpoints; the next claim looks behind it."""
        in_full = self.looks.in_full()
        marks = [] if in_full else self.marks.all()
        self.marks.looking()
        first, *rows = await driver.fetch(
            self._call,
            self._cursor[1],
            now,
            limit,
            self._limits.per_endpoint,
            self._limits.per_destination,
            dispatcher_row,
            integers([row for row, _ in ended]),
            integers([attempt for _, attempt in ended]),
            self._limits.per_unverified,
            self._limits.unverified_rate,
            self._source,
            self._limits.per_process,
            dice(self._claims + 1),
            [endpoint_row for (endpoint_row, _), _ in marks],
            [fresh for (_, fresh), _ in marks],
            [row for _, row in marks],
            None if in_full else self.flight_since,
            self._cursor[0],
            self._others.behind,
            list(self._others.left),
            list(self._others.left.values()),
        )
        about = first[: len(ABOUT)]
        (
            behind,
            behind_of,
            others,
            others_at,
            hungry,
            share,
            given,
            contended,
            homeless,
            looked_s,
            self.flight_since,
            *seen,
        ) = about
        self._cursor = (behind_of, behind) if behind is not None else START
        self._others.looked_at(others, others_at)
        if in_full:
            self.looks.took(looked_s)
        if seen[0] is not None:
            self.marks.begin(firsts(*seen))
        # Of those only that had a choice.
        self._claims += hungry > 0
        deliveries = sorted((Claimed.of(row[len(ABOUT) :]) for row in rows), key=_row)
        self.looks.left(len(deliveries))
        return ClaimedBatch(
            deliveries,
            # Where they were given fewer for each other's sake, one may have what another did not need.
            limited=self._cursor != START
            or len(deliveries) >= min(limit, share)
            or (given is not None and 0 < len(deliveries) < given),
            starved=hungry > 0 or contended,
            contended=contended,
            homeless=homeless or (),
        )


def _row(claimed: Claimed) -> int:
    return claimed.delivery_row


def _function(tables: Tables) -> str:
    """The function that claims.

    One round trip, though several statements: each has its own snapshot, and the last must see what the former holders
    of the locks did. The destinations' rows are the locks: whoever holds one is alone in claiming for its endpoints, so
    caps and lanes hold over all processes. A destination that another process claims for just now is skipped; of the
    others every endpoint gets a share first, and who could take more gets it with the next claim, at once.

    Where more endpoints have something to claim than can be sent something it is decided twice: before the locks, so
    that no more of them are held than are needed, and behind them.
    """
    name = tables.name
    # The more nodes a plan has, the longer it takes to begin with it; and a claim is mostly beginning. So what can be
    # said in expressions is, and what is seldom needed has statements of its own.
    count_flight = f"""
        began := clock_timestamp();
        SELECT array_agg(f.endpoint_row), array_agg(f.n), array_agg(f.mine), array_agg(f.destination_row),
               array_agg(f.tenant), array_agg(f.callback), slots - COALESCE(sum(f.mine), 0),
               COALESCE(sum(f.n) FILTER (WHERE f.endpoint_row = chosen[considered[1]]), 0),
               COALESCE(sum(f.n) FILTER (WHERE f.destination_row = homes[considered[1]]), 0),
               LEAST(min(f.since), at_time) - interval '{UNSEEN_S} s'
        INTO flying, flying_n, flying_mine, flying_at, flying_of, flying_callback, slots_left, at_first, near_first,
             flight_since
        FROM ({flight(name)}) f;
        looked_s := looked_s + extract(epoch FROM clock_timestamp() - began);
    """

    def look_at_homes(locking: str) -> str:
        return f"""
            SELECT COALESCE(array_agg(h.row_id), '{{}}'),
                   COALESCE(array_agg(h.row_id) FILTER (WHERE h.paused_until > at_time), '{{}}'),
                   COALESCE(array_agg(h.row_id) FILTER (WHERE h.troubled), '{{}}'),
                   array_agg(h.ramp) FILTER (WHERE h.troubled),
                   array_agg(h.verified_at IS NULL) FILTER (WHERE h.troubled),
                   array_agg({tokens("GREATEST(guest_rate, 1)", "guest_rate", "h")}) FILTER (WHERE h.troubled)
            INTO locked, paused, watched, ramps, unverified, home_tokens
            FROM (
                SELECT *, verified_at IS NULL OR ramp IS NOT NULL OR failures_in_row > 0 AS troubled
                FROM {name("destinations")} WHERE row_id = ANY(wanted) {locking}
            ) h;
        """

    return f"""
        CREATE OR REPLACE FUNCTION pg_temp.dispatcher_claim(
            behind bigint, at_time timestamptz, most int, endpoint_cap int, destination_cap int, claimer bigint,
            ended_rows bigint[], ended_attempts int[], guest_cap int, guest_rate float8,
            event_source text, slots int, dice float8,
            marked bigint[], marked_fresh boolean[], marks bigint[], flight_since timestamptz,
            behind_of text, others_behind text, left_of text[], left_at bigint[])
        RETURNS SETOF record LANGUAGE plpgsql
        -- A bitmap scan does not mark the dead entries it comes upon, and would come upon them each time.
        -- Plans are made once, perhaps while a table is nearly empty: then the planner would read it through.
        SET plan_cache_mode = force_generic_plan SET enable_bitmapscan = off SET enable_seqscan = off AS $body$
        DECLARE
            next_behind bigint; next_of text; first_of text; last_of text; tenants_seen int;
            from_marks boolean := cardinality(marked) > 0; marked_of text[];
            others text[]; others_at bigint[]; resumed text[]; resumed_at bigint[];
            homeless bigint[]; seen bigint[]; seen_fresh bigint[]; seen_again bigint[];
            -- The endpoints that have something to claim, and the places in these of those that may be given some.
            {" ".join(f"{array} {type_}[];" for array, (_, type_) in CHOSEN.items())} limited boolean; again boolean;
            considered int[]; hungry int;
            wanted bigint[]; locked bigint[]; paused bigint[]; contended boolean; now record;
            watched bigint[]; ramps int[]; unverified boolean[]; home_tokens float8[];
            flying bigint[]; flying_n int[]; flying_mine int[]; flying_at bigint[]; flying_of text[];
            flying_callback boolean[]; slots_left int; at_first int; near_first int;
            going int[]; going_n int[]; portion int; given int;
            began timestamptz := clock_timestamp(); seen_at text := pg_current_snapshot()::text; looked_s float8;
            fewer boolean := false;
            kept int := {KEPT}; spin bigint := trunc(dice * {SPIN}.0)::bigint;
        BEGIN
            {look_around(name)}
            looked_s := extract(epoch FROM clock_timestamp() - began);
            hungry := COALESCE(cardinality(chosen), 0);
            considered := ('{{{",".join(map(str, range(1, WINDOW + OTHERS_HEADS + 1)))}}}'::int[])[1:hungry];
            wanted := COALESCE(homes, '{{}}');

            IF hungry > most THEN
                {look_at_homes("")}
                IF cardinality(paused) > 0 THEN
                    considered := ARRAY(SELECT k FROM unnest(considered) AS c(k) WHERE NOT homes[k] = ANY(paused));
                    hungry := cardinality(considered);
                END IF;
                {count_flight}
                considered := ARRAY({cut()});
                wanted := ARRAY(SELECT homes[k] FROM unnest(considered) AS c(k));
            END IF;
            {look_at_homes("FOR NO KEY UPDATE SKIP LOCKED")}
            contended := NOT locked @> wanted;
            IF contended OR cardinality(paused) > 0 THEN
                considered := ARRAY(SELECT k FROM unnest(considered) AS c(k)
                                    WHERE homes[k] = ANY(locked) AND NOT homes[k] = ANY(paused));
                -- Or those may go that were left out.
                contended := contended OR hungry > most;
                hungry := LEAST(hungry, cardinality(considered));
            END IF;
            IF limited THEN
                -- Their tokens are spent below. In the order in which outcomes are recorded there, or each would wait
                -- for the other.
                PERFORM FROM {name("endpoint_state")} WHERE endpoint_row = ANY(ARRAY(
                    SELECT chosen[k] FROM unnest(considered) AS c(k) WHERE allowances[k] IS NOT NULL))
                ORDER BY endpoint_row FOR NO KEY UPDATE;
            END IF;
            {count_flight}
            IF pg_current_snapshot()::text <> seen_at THEN
                -- Somebody has committed since. Whose outcome has made room may have asked to be left alone, so this
                -- look is later than that count.
                FOR now IN {second_look(name)} LOOP
                    caps[now.place] := now.cap;
                    allowances[now.place] := now.tokens;
                    IF now.same IS NOT TRUE THEN
                        considered := array_remove(considered, now.place);
                        contended := true;
                        fewer := true;
                    END IF;
                END LOOP;
            END IF;
            IF cardinality(considered) = 1 AND NOT fewer AND cardinality(watched) = 0 AND slots_left - most > kept THEN
                -- As it would be decided.
                portion := most;
                going := considered;
                going_n := ARRAY[LEAST(most, caps[considered[1]] - at_first, destination_cap - near_first,
                                       floor(allowances[considered[1]])::int)];
                IF going_n[1] < 1 THEN
                    going := '{{}}';
                END IF;
            ELSE
                SELECT COALESCE(array_agg(d.i), '{{}}'), COALESCE(array_agg(d.n), '{{}}'), COALESCE(min(d.share), 1),
                       CASE WHEN count(*) < min(d.able) OR bool_or(d.n < d.could) THEN sum(d.n) END
                INTO going, going_n, portion, given FROM ({decide(name)}) d;
            END IF;

            IF cardinality(going) = 0 THEN
                RETURN QUERY {about()};
            ELSIF limited OR again OR true = ANY(unverified) THEN
                RETURN QUERY {take(name)};
            ELSE
                RETURN QUERY {take(name, plain=True)};
            END IF;
        END $body$
    """
