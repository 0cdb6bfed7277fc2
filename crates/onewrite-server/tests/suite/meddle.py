"""What happens to a stream behind the back of its users: `python meddle.py URL CONSUMER lose|repeat|left`.

- lose takes one message away that has others of its partition behind it.
- repeat sends again what the stream, or the consumer's queues, hold; and something that is no event.
- left prints how many messages the consumer has not acknowledged, as far as the server tells.

The consumer does not run meanwhile, but for `left`.
"""

import asyncio
import sys
from urllib.parse import urlsplit

import nats
import pika
import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition


class Nats:
    def __init__(self, url, stream, consumer):
        self.url, self.stream, self.consumer = f"nats://{url.netloc}", stream, consumer

    def __getattr__(self, what):
        return lambda: asyncio.run(getattr(self, f"do_{what}")())

    async def opened(self):
        client = await nats.connect(self.url)
        return client, client.jetstream()

    async def do_lose(self):
        client, stream = await self.opened()
        await stream.delete_msg(self.stream, 1)
        await client.close()

    async def do_repeat(self):
        client, stream = await self.opened()
        last = (await stream.stream_info(self.stream)).state.last_seq
        for number in range(1, last + 1):
            message = await stream.get_msg(self.stream, number)
            # Without its id, by which the server would recognise it.
            headers = {name: text for name, text in message.headers.items() if name != "Nats-Msg-Id"}
            await stream.publish(message.subject, message.data, headers=headers)
        await stream.publish(f"{self.stream}.0.0", b"hello")
        await client.close()

    async def do_left(self):
        client, stream = await self.opened()
        found = await stream.consumer_info(self.stream, self.consumer)
        await client.close()
        print(found.num_pending + found.num_ack_pending)


class RabbitMQ:
    def __init__(self, url, stream, consumer):
        self.connection = pika.BlockingConnection(pika.URLParameters(f"amqp://{url.netloc}/%2F"))
        self.channel, self.stream = self.connection.channel(), stream
        self.queues = [f"{stream}.{consumer}.{lane}" for lane in range(2)]

    def count(self, queue):
        return self.channel.queue_declare(queue, passive=True).method.message_count

    def lose(self):
        queue = next(queue for queue in self.queues if self.count(queue))
        self.channel.basic_qos(prefetch_count=1)
        method, _, _ = next(self.channel.consume(queue))
        self.channel.basic_ack(method.delivery_tag)
        self.connection.close()

    def repeat(self):
        for queue in self.queues:
            count = self.count(queue)
            for method, properties, body in self.channel.consume(queue) if count else []:
                self.channel.basic_publish(self.stream, method.routing_key, body, properties)
                count -= 1
                if count == 0:
                    break
            self.channel.cancel()
        self.channel.basic_publish(self.stream, "0", b"hello")
        # What was not acknowledged goes back.
        self.connection.close()

    def left(self):
        print(sum(self.count(queue) for queue in self.queues))


class Redis:
    def __init__(self, url, stream, consumer):
        self.client = redis.Redis.from_url(f"redis://{url.netloc}", protocol=2)
        self.consumer, self.lanes = consumer, [f"{stream}:{lane}" for lane in range(2)]

    def lose(self):
        lane = next(lane for lane in self.lanes if self.client.xlen(lane))
        self.client.xdel(lane, self.client.xrange(lane, count=1)[0][0])

    def repeat(self):
        for lane in self.lanes:
            for _, fields in self.client.xrange(lane):
                self.client.xadd(lane, fields)
        self.client.xadd(self.lanes[0], {"hello": "world"})

    def left(self):
        groups = [group for lane in self.lanes for group in self.client.xinfo_groups(lane)]
        print(sum(group["pending"] + group["lag"] for group in groups))


class Kafka:
    def __init__(self, url, stream, consumer):
        self.server, self.stream = {"bootstrap.servers": url.netloc}, stream
        self.lanes = range(2)
        self.consumer = Consumer({**self.server, "group.id": consumer, "enable.auto.commit": False})

    def end(self, lane):
        return self.consumer.get_watermark_offsets(TopicPartition(self.stream, lane), timeout=10)[1]

    def lose(self):
        """Its group passes over the first message, which is as good as lost for the consumer."""
        lane = max(self.lanes, key=self.end)
        self.consumer.commit(offsets=[TopicPartition(self.stream, lane, 1)], asynchronous=False)

    def repeat(self):
        producer = Producer(self.server)
        for lane in self.lanes:
            self.consumer.assign([TopicPartition(self.stream, lane, OFFSET_BEGINNING)])
            for _ in range(self.end(lane)):
                message = self.consumer.poll(10)
                content = {"key": message.key(), "headers": message.headers()}
                producer.produce(self.stream, message.value(), partition=lane, **content)
        producer.produce(self.stream, b"hello", partition=0)
        producer.flush(10)

    def left(self):
        committed = self.consumer.committed([TopicPartition(self.stream, lane) for lane in self.lanes], 10)
        print(sum(self.end(lane) - max(committed[lane].offset, 0) for lane in self.lanes))


def main():
    url, consumer, what = urlsplit(sys.argv[1]), *sys.argv[2:]
    broker = {"nats": Nats, "amqp": RabbitMQ, "redis": Redis, "kafka": Kafka}[url.scheme]
    getattr(broker(url, url.path.strip("/"), consumer), what)()


if __name__ == "__main__":
    main()
