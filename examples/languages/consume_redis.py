"""Reads events from Redis Streams and writes an invoice for each order, once in effect.

    DATABASE_URL=postgres://… python3 consume_redis.py redis://127.0.0.1:6379/ORDERS --consumer billing
"""

import time

import redis

import consume

READ_MAX = 500
TRIM_EVERY_S = 60.0


def read_event(fields):
    attributes = {name.decode(): value for name, value in fields.items()}
    data = attributes.pop("data", b"")
    return consume.event_of({name: value.decode() for name, value in attributes.items()}, data)


def entry_number(entry_id):
    milliseconds, _, counter = entry_id.partition(b"-")
    return int(milliseconds), int(counter)


class Redis:
    TROUBLE = (redis.RedisError, OSError)

    def __init__(self, given):
        database = given.url.path.strip("/").rpartition("/")[0] or "0"
        server = f"{given.url.scheme}://{given.url.netloc}/{database}"
        # A protocol of 2 gives the same answers with every version of the client.
        self.client = redis.Redis.from_url(server, socket_timeout=10, protocol=2)
        self.gaps, self.group = f"onewrite:gap:{given.stream}", given.consumer
        self.trim_at = 0.0
        self.client.hsetnx(given.stream, "lanes", 8)
        lanes = int(self.client.hget(given.stream, "lanes"))
        # Of each lane first what was read before and not acknowledged, from the beginning; then what is new.
        self.after = {f"{given.stream}:{lane}".encode(): b"0" for lane in range(lanes)}
        for key in self.after:
            try:
                self.client.xgroup_create(key, self.group, "0", mkstream=True)
            except redis.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def read(self, wait_s, room):
        self.trim()
        if room == 0:
            time.sleep(wait_s)
            return []
        # The consumer in the group has the group's name, whichever process reads.
        count = max(min(room, READ_MAX) // len(self.after), 1)
        block = max(int(wait_s * 1000), 1)  # 0 would be for ever
        found = dict(self.client.xreadgroup(self.group, self.group, self.after, count=count, block=block))
        for key, after in self.after.items():
            if after != b">":
                self.after[key] = found[key][-1][0] if found.get(key) else b">"
        return [self.arrived(key, *entry) for key, entries in found.items() for entry in entries]

    def arrived(self, key, entry_id, fields):
        try:
            return (key, entry_id), read_event(fields or {})  # none: deleted meanwhile
        except ValueError:
            return (key, entry_id), None

    def acknowledge(self, tokens):
        with self.client.pipeline(transaction=False) as pipeline:
            for key, entry_id in tokens:
                pipeline.xack(key, self.group, entry_id)
            pipeline.execute()

    def trim(self):
        """Removes now and then what every group has acknowledged: the server keeps it in memory."""
        if self.trim_at > time.monotonic():
            return
        self.trim_at = time.monotonic() + TRIM_EVERY_S
        for key in self.after:
            wanted = []
            for group in self.client.xinfo_groups(key):
                pending = self.client.xpending(key, group["name"])
                wanted.append(pending["min"] if pending["pending"] else group["last-delivered-id"])
            self.client.xtrim(key, minid=min(wanted, key=entry_number), approximate=False)

    def announce(self, text):
        self.client.publish(self.gaps, text)

    def close(self):
        self.client.close()


if __name__ == "__main__":
    consume.main(Redis, __doc__)
