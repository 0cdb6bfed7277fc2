"""Reads events from RabbitMQ and writes an invoice for each order, once in effect.

    DATABASE_URL=postgres://… python3 consume_rabbitmq.py amqp://127.0.0.1:5672/ORDERS --consumer billing
"""

import contextlib
import re

import pika
import pika.exceptions

import consume

PREFIXES = ("cloudEvents:", "cloudEvents_")
LANES_DEFAULT = 8


def read_event(properties, body):
    kind = properties.content_type
    if (kind or "").startswith("application/cloudevents+json"):
        return consume.whole_event(body)
    attributes = {
        # Other senders write numbers as what they are.
        name[len(PREFIXES[0]) :]: str(value)
        for name, value in (properties.headers or {}).items()
        if name.startswith(PREFIXES)
    }
    if kind is not None:
        attributes["datacontenttype"] = kind
    return consume.event_of(attributes, body)


def lanes_of(connection, stream):
    """How many lanes the stream has: the limit of a queue, which the server tells to whoever wants another."""
    arguments = {"x-queue-type": "quorum", "x-max-length": LANES_DEFAULT}
    try:
        connection.channel().queue_declare(f"{stream}.lanes", durable=True, arguments=arguments)
    except pika.exceptions.ChannelClosedByBroker as error:
        told = re.search(r"'x-max-length'.* current is '(\d+)'", error.reply_text)
        if told is None:
            raise
        return int(told[1])
    return LANES_DEFAULT


class RabbitMQ:
    TROUBLE = (pika.exceptions.AMQPError, OSError)

    def __init__(self, given):
        vhost = given.url.path.strip("/").rpartition("/")[0] or "%2F"
        server = f"{given.url.scheme}://{given.url.netloc}/{vhost}"
        self.gaps, self.arrived = f"{given.stream}.gaps", []
        self.connection = pika.BlockingConnection(pika.URLParameters(server))
        try:
            self.open(given)
        except BaseException:
            self.close()
            raise

    def open(self, given):
        stream, lanes = given.stream, lanes_of(self.connection, given.stream)
        self.channel = self.connection.channel()
        # All of it as the relay and the receivers in Rust make it, whoever comes first.
        self.channel.exchange_declare(stream, "direct", durable=True)
        self.channel.exchange_declare(self.gaps, "fanout", durable=True)
        # For each queue, what may be on its way and not acknowledged.
        self.channel.basic_qos(prefetch_count=max(consume.HELD_MAX // lanes - 1, 1))
        for lane in range(lanes):
            queue = f"{stream}.{given.consumer}.{lane}"
            arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
            self.channel.queue_declare(queue, durable=True, arguments=arguments)
            self.channel.queue_bind(queue, stream, str(lane))
            self.channel.basic_consume(queue, self.take_in)

    def take_in(self, _channel, method, properties, body):
        try:
            self.arrived.append((method.delivery_tag, read_event(properties, body)))
        except ValueError:
            self.arrived.append((method.delivery_tag, None))

    def read(self, wait_s, _room):
        # Also sends the heartbeats.
        self.connection.process_data_events(time_limit=wait_s)
        arrived, self.arrived = self.arrived, []
        return arrived

    def acknowledge(self, tags):
        for tag in tags:
            self.channel.basic_ack(tag)

    def announce(self, text):
        self.channel.basic_publish(self.gaps, "", text.encode())

    def close(self):
        with contextlib.suppress(*self.TROUBLE):
            self.connection.close()


if __name__ == "__main__":
    consume.main(RabbitMQ, __doc__)
