"""Reads events from NATS JetStream and writes an invoice for each order, once in effect.

    DATABASE_URL=postgres://… python3 consume_nats.py nats://127.0.0.1:4222/ORDERS --consumer billing
"""

import asyncio
import contextlib
from urllib.parse import unquote

import nats
import nats.errors
from nats.js.api import ConsumerConfig

import consume

FETCH_MAX = 500


def read_event(message):
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    kind = headers.get("content-type")
    is_bare = kind is None and not any(name.startswith("ce-") for name in headers)
    if is_bare or (kind or "").startswith("application/cloudevents+json"):
        return consume.whole_event(message.data)
    attributes = {
        name.removeprefix("ce-"): unquote(value, errors="strict")
        for name, value in headers.items()
        if name.startswith("ce-")
    }
    if kind is not None:
        attributes.setdefault("datacontenttype", kind)
    return consume.event_of(attributes, message.data)


class Nats:
    TROUBLE = (nats.errors.Error, asyncio.TimeoutError, OSError)

    def __init__(self, given):
        self.gaps = f"onewrite.gap.{given.stream}"
        self.loop = asyncio.new_event_loop()
        # How each message that is held is answered: by its place in the stream, for it may come again.
        self.replies = {}
        self.run(self.open(given))

    async def hear(self, error):
        """What goes wrong is told when it ends what was asked of the client."""

    def run(self, work):
        return self.loop.run_until_complete(work)

    async def open(self, given):
        servers = [f"{given.url.scheme}://{server}" for server in given.url.netloc.split(",")]
        # Its own way of connecting again would hide for how long nothing is read.
        self.client = await nats.connect(servers, allow_reconnect=False, error_cb=self.hear)
        config = ConsumerConfig(
            # What a killed process had comes again after this, and what is held comes again and again.
            ack_wait=given.patience / 2,
            max_ack_pending=consume.HELD_MAX,
        )
        try:
            # One consumer for all lanes. It is made with the first start, and found afterwards.
            self.subscription = await self.client.jetstream().pull_subscribe(
                f"{given.stream}.>", durable=given.consumer, stream=given.stream, config=config
            )
        except BaseException:
            await self.client.close()
            raise

    def read(self, wait_s, room):
        if room == 0:
            self.run(asyncio.sleep(wait_s))
            return []
        try:
            messages = self.run(self.subscription.fetch(min(room, FETCH_MAX), timeout=max(wait_s, 0.05)))
        except asyncio.TimeoutError:
            return []
        return [self.arrived(message) for message in messages]

    def arrived(self, message):
        place = message.metadata.sequence.stream
        self.replies[place] = message
        try:
            return place, read_event(message)
        except ValueError:
            return place, None

    def acknowledge(self, places):
        async def answer():
            for place in places:
                await self.replies.pop(place).ack()

        self.run(answer())

    def announce(self, text):
        self.run(self.client.publish(self.gaps, text.encode()))
        self.run(self.client.flush())

    def close(self):
        with contextlib.suppress(*self.TROUBLE):
            self.run(self.client.close())
        self.loop.close()


if __name__ == "__main__":
    consume.main(Nats, __doc__)
