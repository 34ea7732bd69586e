"""`dispatcher endpoints test` and `verify`, with a receiver that answers."""

from tests.cli.conftest import Started
from tests.receiver import Receiver

LOCAL = {"allow_http": "true", "allow_networks": "127.0.0.0/8", "log_level": "error"}


async def test_a_2xx_without_the_challenge_is_told_what_is_wanted(
    started: Started, sqlite_url: str, receiver: Receiver
) -> None:
    settings = {"database_url": sqlite_url, **LOCAL}
    async with started("endpoints", "create", receiver.url("/hook"), **settings) as made:
        assert await made.end() == 0
        endpoint_id = (await made.line("ep_")).split()[1]
    async with started("endpoints", "verify", endpoint_id, **settings) as asked:
        assert await asked.end() == 1
        assert "data.challenge" in await asked.line("A 2xx alone proves nothing")


async def test_what_a_receiver_says_to_a_test_event_is_shown(
    started: Started, sqlite_url: str, receiver: Receiver
) -> None:
    receiver.answers("/hook", 503)
    settings = {"database_url": sqlite_url, **LOCAL}
    oauth2 = (
        f'{{"token_url": "{receiver.url("/nowhere")}", "client_id": "us", "client_secret": "s3cret-of-ours",'
        ' "auth_method": "client_secret_post"}'
    )
    receiver.answers("/nowhere", 404)
    async with started("endpoints", "create", receiver.url("/hook"), "--oauth2", oauth2, **settings) as made:
        assert await made.end() == 0
        endpoint_id = (await made.line("ep_")).split()[1]
    async with started("endpoints", "test", endpoint_id, **settings) as asked:
        assert await asked.end() == 1
        assert "no access token: the token endpoint answered 404" in await asked.line("response_excerpt")
