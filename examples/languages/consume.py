"""What a consumer over a broker does: it writes an invoice for each order, once in effect.

Run one of consume_nats.py, consume_rabbitmq.py, consume_redis.py and consume_kafka.py. Each brings the
ordinary client of its broker as a class that has

    TROUBLE             the client's exceptions after which everything is opened anew
    read(wait_s, room)  waits at most so long, and returns tokens with their events, not many more than
                        there is room for; None in place of an event stands for what is no CloudEvent
    acknowledge(tokens) says that these are done with
    announce(text)      tells the relay what is missing
    close()

Whatever the broker delivers twice or in another order, the database decides: see receive.py.
"""

import argparse
import base64
import bisect
import json
import os
import random
import sys
import time
from urllib.parse import urlsplit

import psycopg

from receive import lane_of, take_all

HELD_MAX = 10_000
LANE_BATCH_MAX = 50
WAIT_MAX_S = 1.0
PAUSE_MAX_S = 30.0
ANNOUNCE_WITHIN_S = 60.0


def whole_event(text):
    """A CloudEvent that travels as one JSON object; a ValueError when it is none."""
    event = json.loads(text)
    if not isinstance(event, dict) or not {"specversion", "id", "source", "type"} <= event.keys():
        raise ValueError("no CloudEvent")
    return event


def event_of(attributes, data):
    """A CloudEvent from its attributes, named without a prefix, and its data; a ValueError when it is none."""
    if not {"specversion", "id", "source", "type"} <= attributes.keys():
        raise ValueError("no CloudEvent")
    kind = attributes.get("datacontenttype", "").split(";")[0].strip().lower()
    if not data:
        return attributes
    if kind.endswith(("/json", "+json")):
        try:
            return {**attributes, "data": json.loads(data)}
        except ValueError:
            pass  # an event all the same, which has its place: who reacts refuses it, and a person looks
    return {**attributes, "data_base64": base64.b64encode(data).decode()}


class Entry:
    """An event that is held."""

    def __init__(self, token, event):
        self.token, self.event = token, event
        self.lane = lane_of(event)
        # One sent again with an earlier predecessor fits sooner. Foreign events stay as they came.
        self.order = (int(event.get("onewritesequence", 0)), int(event.get("onewriteprevious", 0)))


class Lane:
    """What is held of one partition, in the order of the sequence."""

    def __init__(self):
        self.entries = []
        self.failures = 0
        self.again_at = 0.0
        self.missing = None  # the mark, when to announce it, and the pause after that

    def add(self, entry):
        at = bisect.bisect_right(self.entries, entry.order, key=lambda held: held.order)
        self.entries.insert(at, entry)
        if at == 0:
            self.again_at = 0.0  # perhaps the one that was missing

    def taken(self):
        self.failures, self.missing = 0, None
        return self.entries.pop(0).token

    def not_taken(self, result, patience_s):
        now = time.monotonic()
        self.failures += 1
        pause_s = min(0.1 * 2 ** min(self.failures, 20), PAUSE_MAX_S)
        self.again_at = now + random.uniform(pause_s / 2, pause_s)
        event = self.entries[0].event
        # Behind a gap event nothing comes by itself: those before it are gone, and a person decides.
        if not isinstance(result, dict) or "gap" not in result or event["type"] == "io.onewrite.gap":
            self.missing = None
            print(f"{event['type']} {event['id']} is not taken: {result}", file=sys.stderr, flush=True)
        elif self.missing is None or self.missing[0] != result["gap"]:
            # It may still come by itself.
            self.missing = (result["gap"], now + patience_s, patience_s)


class Held:
    """What was read and is not acknowledged."""

    def __init__(self, patience_s):
        self.lanes, self.tokens, self.patience_s = {}, set(), patience_s

    def add(self, token, event):
        """Takes an event in; False for one that has no place."""
        if token in self.tokens:
            return True  # a broker that was not answered for long gives the same message again
        try:
            entry = Entry(token, event)
            lane = self.lanes.setdefault(entry.lane, Lane())
        except (TypeError, ValueError):  # its place is no number, or its source no text
            return False
        lane.add(entry)
        self.tokens.add(token)
        return True

    def room(self):
        return max(HELD_MAX - len(self.tokens), 0)

    def ready(self):
        """The first ones of each lane that does not wait."""
        now = time.monotonic()
        lanes = [lane for lane in self.lanes.values() if lane.again_at <= now]
        return [entry for lane in lanes for entry in lane.entries[:LANE_BATCH_MAX]]

    def settle(self, entries, results):
        """What is done with, and what is tried again later. Returns the tokens to acknowledge."""
        tokens = []
        for entry, result in zip(entries, results):
            lane = self.lanes[entry.lane]
            if result in ("accepted", "duplicate"):  # of each lane, the first ones
                tokens.append(lane.taken())
            elif result != "blocked":
                lane.not_taken(result, self.patience_s)
        self.lanes = {key: lane for key, lane in self.lanes.items() if lane.entries}
        self.tokens.difference_update(tokens)
        return tokens

    def wait_s(self):
        """How long there is nothing to do, unless something arrives."""
        due = [lane.again_at for lane in self.lanes.values()]
        due += [lane.missing[1] for lane in self.lanes.values() if lane.missing]
        return max(0.0, min([WAIT_MAX_S] + [at - time.monotonic() for at in due]))

    def announcements(self):
        """What the relay is told to send again: repeated less and less often, for nobody stores it."""
        now = time.monotonic()
        for (source, incarnation, partition), lane in self.lanes.items():
            if lane.missing is None or lane.missing[1] > now:
                continue
            have, _, pause_s = lane.missing
            lane.missing = (have, now + pause_s, min(pause_s * 2, ANNOUNCE_WITHIN_S))
            yield {"source": source, "incarnation": incarnation, "partition": partition, "have": have}


def consume(broker, database, given):
    held = Held(given.patience)
    while True:
        room = held.room()
        if room == 0:
            print("too much is not taken: nothing more is read", file=sys.stderr, flush=True)
        for token, event in broker.read(held.wait_s(), room):
            if event is None or not held.add(token, event):
                print(f"no CloudEvent, passed over: {token}", file=sys.stderr, flush=True)
                broker.acknowledge([token])
        entries = held.ready()
        if entries:
            events = [entry.event for entry in entries]
            results = take_all(database, given.consumer, events, given.without_receive)
            # The commit is behind us. A process that is killed here gets all of them again.
            broker.acknowledge(held.settle(entries, results))
        for said in held.announcements():
            print(f"missing, and the relay is told: {said}", file=sys.stderr, flush=True)
            broker.announce(json.dumps(said))


def main(broker_class, doc):
    arguments = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("url", help="the sink's URL; its options are read past")
    arguments.add_argument("--consumer", default="billing", help="the name at the broker, and of the marks")
    arguments.add_argument(
        "--patience", type=float, default=60, help="seconds in which what is missing may come by itself"
    )
    arguments.add_argument(
        "--without-receive", action="store_true", help="to see what a repeat does then: it takes effect again"
    )
    given = arguments.parse_args()
    given.url = urlsplit(given.url)
    given.stream = given.url.path.rstrip("/").rpartition("/")[2]
    while True:
        try:
            with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
                # One process reads at a time, for the sake of order; another one waits here until it is gone.
                name = f"{given.consumer} reads {given.stream}"
                database.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
                broker = broker_class(given)
                print(f"reading {given.stream}", flush=True)
                try:
                    consume(broker, database, given)
                finally:
                    broker.close()
        except (psycopg.Error, *broker_class.TROUBLE) as error:
            # What was read and not acknowledged comes again.
            print(f"opened anew, because of {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            time.sleep(1)
        except KeyboardInterrupt:
            return
