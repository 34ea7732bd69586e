"""Settings of the egress guard, end to end: they hold for endpoints that were registered before them, and a proxy's
failures are nobody else's.
"""

from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from pydantic import SecretStr

from dispatcher.errors import InvalidField, InvalidSettings
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store.deployment import egress_rules
from tests.clock import FakeClock
from tests.outpost import Outpost, loopback_settings
from tests.receiver import Receiver
from tests.transport.connect_proxy import GRANTED, ConnectProxy
from tests.transport.raw_receiver import RawReceiver


@pytest.mark.parametrize(
    "setting",
    [
        {"deny_networks": (ip_network("127.0.0.0/8"),)},
        {"allow_hosts": ("hooks.example.com", "*.example.org")},
        {"allow_http": False},
        {"allow_ports": ((443, 443),)},
        {"deny_ports": ((1024, 65535),)},
    ],
    ids=lambda setting: next(iter(setting)),
)
async def test_a_rule_that_came_later_kills_the_delivery_and_nothing_connects(
    sqlite_outpost: Outpost, setting: dict[str, Any]
) -> None:
    async with RawReceiver() as receiver:
        await sqlite_outpost.endpoint(receiver.url())
        await sqlite_outpost.publish()
        async with sqlite_outpost.dispatcher(**setting) as dispatcher:
            await dispatcher.until_idle()
    row, (letter,) = await sqlite_outpost.delivery(), await sqlite_outpost.letters()
    assert (row.state, letter.reason, row.last_error) == (DeliveryState.DEAD, Reason.BLOCKED, AttemptError.BLOCKED)
    assert receiver.connections == 0


async def test_the_dispatchers_own_port_is_not_delivered_to(outpost: Outpost) -> None:
    async with RawReceiver() as listener:
        await outpost.endpoint(listener.url())
        await outpost.endpoint(listener.url(host="localhost"))
        await outpost.publish()
        async with outpost.dispatcher(port=listener.port) as dispatcher:
            await dispatcher.until_idle()
    assert {row.reason for row in await outpost.deliveries()} == {Reason.BLOCKED}
    assert listener.connections == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:6432/", "http://127.9.9.9:6432/", "http://db.example.com:6432/"])
def test_the_database_is_not_registered_as_a_receiver(url: str) -> None:
    settings = loopback_settings("postgresql://me@127.0.0.1:6432,db.example.com:6432/app")
    with pytest.raises(InvalidField, match="the dispatcher's own"):
        CallbackUrl.parse(url, egress_rules(settings))
    assert CallbackUrl.parse(url.replace("6432", "8080"), egress_rules(settings)).port == 8080


def test_a_receiver_may_have_the_port_that_a_proxy_elsewhere_has() -> None:
    url = "http://10.1.2.3:8080/"
    for proxy in ("http://proxy.example.com:8080", "http://10.9.9.9:8080", "http://127.0.0.1:8080"):
        rules = egress_rules(
            loopback_settings("sqlite:///a.db", allow_networks="10.0.0.0/8,127.0.0.0/8", proxy=SecretStr(proxy))
        )
        assert CallbackUrl.parse(url, rules).port == 8080
        with pytest.raises(InvalidField, match="the dispatcher's own"):
            CallbackUrl.parse(f"{proxy}/", rules)


def test_a_proxy_that_is_known_by_its_name_is_refused_at_its_address_where_that_is_denied() -> None:
    given: dict[str, Any] = {"allow_networks": "10.0.0.0/8", "proxy": SecretStr("http://proxy.example.com:8080")}
    # Nobody asks a name server what the proxy's address is, and its port is many receivers'.
    assert CallbackUrl.parse("http://10.9.9.9:8080/", egress_rules(loopback_settings("sqlite:///a.db", **given))).port
    denying = egress_rules(loopback_settings("sqlite:///a.db", **given, deny_networks="10.9.9.9/32"))
    with pytest.raises(InvalidField, match="DISPATCHER_DENY_NETWORKS"):
        CallbackUrl.parse("http://10.9.9.9:8080/", denying)
    by_address = {**given, "proxy": SecretStr("http://10.9.9.9:8080")}
    with pytest.raises(InvalidField, match="the dispatcher's own"):
        CallbackUrl.parse("http://10.9.9.9:8080/", egress_rules(loopback_settings("sqlite:///a.db", **by_address)))


def test_a_database_on_this_machine_is_one_of_its_own_ports() -> None:
    for host in ("127.0.0.1", "localhost", "[::1]"):
        rules = egress_rules(loopback_settings(f"postgresql://me@{host}:6432/app"))
        assert rules.own_ports == {6432}
        assert not rules.unlocated_ports
    assert egress_rules(loopback_settings("postgresql://me@db:6432/app")).unlocated_ports == {6432}


def test_a_port_of_the_api_that_nobody_named_is_not_taken_for_ours() -> None:
    assert egress_rules(loopback_settings("sqlite:///a.db")).own_ports == frozenset()
    assert egress_rules(loopback_settings("sqlite:///a.db", port=8080, work_port=9000)).own_ports == {8080, 9000}
    assert egress_rules(loopback_settings("sqlite:///a.db", port=0)).own_ports == frozenset()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("proxy", "socks5://proxy:1080"), ("allow_hosts", "http://a.example/"), ("no_proxy", "a b")],
)
def test_a_wrong_setting_keeps_a_process_from_starting_and_names_itself(
    sqlite_url: str, clock: FakeClock, setting: str, value: str
) -> None:
    with pytest.raises(InvalidSettings, match=f"DISPATCHER_{setting.upper()}"):
        Outpost(sqlite_url, clock, **{setting: value})


async def test_what_the_proxy_alone_keeps_back_costs_no_retry_and_speaks_against_nobody(
    outpost: Outpost, clock: FakeClock
) -> None:
    async with RawReceiver() as receiver, ConnectProxy(b"HTTP/1.1 407 X\r\n\r\n") as proxy:
        endpoint = await outpost.endpoint(receiver.url(host="receiver.example"), retry_schedule=(60.0,))
        await outpost.publish()
        async with outpost.dispatcher(proxy=SecretStr(f"http://127.0.0.1:{proxy.port}")) as dispatcher:
            waited: list[float] = []
            for _ in range(9):
                await dispatcher.until_idle()
                row = await outpost.delivery()
                assert (row.state, row.failures, row.last_error) == (DeliveryState.PENDING, 0, AttemptError.INTERNAL)
                waited.append((row.due_at - clock.now()).total_seconds())
                clock.advance(waited[-1])
            assert waited == [5, 10, 20, 40, 80, 160, 300, 300, 300]
            known, destination = await outpost.endpoint_now(endpoint), await outpost.destination()
            assert (known.failures_in_row, known.backoff_failures, destination.failures_in_row) == (0, 0, 0)
            proxy.answer = GRANTED
            await dispatcher.until_idle()
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED
    assert len(receiver.requests) == 1
    assert {row.response_excerpt for row in await outpost.attempts()} == {None, "the egress proxy answered 407"}


async def test_what_may_be_the_receivers_fault_ends_by_the_schedule_and_still_speaks_against_nobody(
    outpost: Outpost, clock: FakeClock, receiver: Receiver
) -> None:
    async with ConnectProxy(b"HTTP/1.1 502 X\r\n\r\n") as proxy:
        endpoint = await outpost.endpoint("http://receiver.example/", retry_schedule=(60.0,))
        await outpost.publish()
        async with outpost.dispatcher(proxy=SecretStr(f"http://127.0.0.1:{proxy.port}")) as dispatcher:
            failures = []
            for _ in range(10):
                await dispatcher.until_idle()
                failures.append((await outpost.delivery()).failures)
                clock.advance(timedelta(minutes=5).total_seconds())
    assert failures == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]
    assert (await outpost.delivery()).reason == Reason.EXHAUSTED
    known, destination = await outpost.endpoint_now(endpoint), await outpost.destination()
    assert (known.failures_in_row, destination.failures_in_row) == (0, 0)


async def test_the_cap_of_a_destination_holds_over_tenants(outpost: Outpost) -> None:
    for n in range(6):
        await outpost.endpoint(f"http://127.0.0.1:8000/{n}", tenant=f"tenant-{n}")
        for _ in range(3):
            await outpost.publish(tenant=f"tenant-{n}")
    async with outpost.store(max_in_flight_per_destination=5) as store:
        await store.fan_out(100)
        claimed = (await store.claim(100)).deliveries
        more = (await store.claim(100)).deliveries
    assert len({one.endpoint_row for one in claimed}) > 1
    assert len(claimed) + len(more) == 5
