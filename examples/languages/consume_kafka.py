"""Reads events from Kafka and writes an invoice for each order, once in effect.

    DATABASE_URL=postgres://… python3 consume_kafka.py kafka://127.0.0.1:9092/ORDERS --consumer billing
"""

import time

from confluent_kafka import OFFSET_STORED, Consumer, KafkaException, Producer, TopicPartition

import consume

READ_MAX = 500
TIMEOUT_S = 10


def read_event(message):
    headers = {name.lower(): value for name, value in message.headers() or [] if value is not None}
    kind = headers.get("content-type", b"").decode()
    if kind.startswith("application/cloudevents+json"):
        return consume.whole_event(message.value() or b"")
    attributes = {
        name.removeprefix("ce_"): value.decode() for name, value in headers.items() if name.startswith("ce_")
    }
    if kind:
        attributes["datacontenttype"] = kind
    return consume.event_of(attributes, message.value() or b"")


class Kafka:
    TROUBLE = (KafkaException,)

    def __init__(self, given):
        self.topic, self.gaps = given.stream, f"{given.stream}.gaps"
        server = {"bootstrap.servers": given.url.netloc}
        self.producer = Producer(server)
        # The group notes how far it is and no more: nobody joins it, so nothing is handed out anew.
        settings = {"group.id": given.consumer, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        self.consumer = Consumer({**server, **settings})
        self.held = {}  # of each partition, the offsets that are not acknowledged
        self.next = {}  # of each partition, what is read next
        found = self.consumer.list_topics(self.topic, TIMEOUT_S).topics[self.topic]
        if found.error is not None:
            raise KafkaException(found.error)
        self.consumer.assign([TopicPartition(self.topic, number, OFFSET_STORED) for number in found.partitions])

    def read(self, wait_s, room):
        if room == 0:
            time.sleep(wait_s)
            return []
        first = self.consumer.poll(wait_s)
        if first is None:
            return []
        rest = self.consumer.consume(min(room, READ_MAX), timeout=0)
        return [self.arrived(message) for message in [first, *rest]]

    def arrived(self, message):
        if message.error() is not None:
            raise KafkaException(message.error())
        partition, offset = message.partition(), message.offset()
        self.held.setdefault(partition, set()).add(offset)
        self.next[partition] = offset + 1
        try:
            return (partition, offset), read_event(message)
        except ValueError:
            return (partition, offset), None

    def acknowledge(self, tokens):
        """Kafka notes one offset for each partition: never beyond what is not acknowledged."""
        if not tokens:
            return
        for partition, offset in tokens:
            self.held[partition].discard(offset)
        touched = {partition for partition, _ in tokens}
        places = [min(self.held[partition], default=self.next[partition]) for partition in touched]
        offsets = [TopicPartition(self.topic, *at) for at in zip(touched, places)]
        self.consumer.commit(offsets=offsets, asynchronous=True)

    def announce(self, text):
        self.producer.produce(self.gaps, text.encode(), partition=0)
        self.producer.flush(TIMEOUT_S)

    def close(self):
        self.consumer.close()


if __name__ == "__main__":
    consume.main(Kafka, __doc__)
