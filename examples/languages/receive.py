"""Receives events over HTTP and writes an invoice for each order, once in effect.

    DATABASE_URL=postgres://… python3 receive.py --port 8080

A batch is one transaction: the invoices and the marks that tell what was received are committed together,
and the answer is given after that. So a repeat (a lost answer, a process that was killed) changes nothing.

With WEBHOOK_SECRET=whsec_… only signed requests are taken.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psycopg

BODY_BYTES_MAX = 16 * 1024 * 1024
CLOCKS_APART_MAX_S = 300


class Refused(Exception):
    """This event cannot be taken; the text is shown to operators and holds no data."""


def react(connection, event):
    """What this service does about an event, in the transaction of its mark."""
    if event["type"] == "io.onewrite.gap":
        # Events before this one are gone for good. A person has to compare both sides first.
        raise Refused("records before this one are gone")
    if event["type"] != "OrderPlaced":
        return
    data = event["data"]
    connection.execute(
        "INSERT INTO invoices (order_id, customer, cents) VALUES (%s, %s, %s)",
        (event["aggregateid"], data["customer"], data["cents"]),
    )


def lane_of(event):
    """Where its place is counted: the source, its life, and the partition."""
    source = event.get("onewritesource", event["source"])
    return source, event.get("onewriteincarnation", "0" * 16), int(event.get("onewritepartition", 0))


def is_new(connection, consumer, event):
    """Asks the database, and moves the mark. Raises OW017 when the predecessor is missing."""
    source, incarnation, partition = lane_of(event)
    previous = event.get("onewriteprevious")  # none: a foreign sender, or delivered again by an operator
    row = connection.execute(
        "SELECT onewrite.receive(%s, %s, %s, %s, %s, %s, %s)",
        (
            consumer,
            source,
            event["id"],
            incarnation,
            partition,
            int(event.get("onewritesequence", 0)),
            None if previous is None else int(previous),
        ),
    ).fetchone()
    return row[0]


def mark(connection, consumer, event):
    """The last sequence received in the event's lane."""
    row = connection.execute(
        "SELECT sequence FROM onewrite.inbox"
        " WHERE consumer = %s AND source = %s AND incarnation = %s AND partition = %s",
        (consumer, *lane_of(event)),
    ).fetchone()
    return row[0] if row else 0


def take(connection, consumer, event, without_receive):
    """One event within the batch's transaction; returns its result."""
    try:
        with connection.transaction():  # a savepoint: what is refused is undone with its mark
            if not without_receive and not is_new(connection, consumer, event):
                return "duplicate"
            react(connection, event)
            return "accepted"
    except psycopg.OperationalError:
        raise  # the database is in trouble, not this event: nothing of the batch is taken
    except psycopg.Error as error:
        if error.sqlstate == "OW017":
            return {"gap": mark(connection, consumer, event)}
        if error.sqlstate == "OW013":
            return "diverged"
        return {"retry": f"the database refused it ({error.sqlstate})"}
    except Refused as error:
        return {"retry": str(error)}
    except (KeyError, TypeError) as error:
        return {"refused": f"the event is not understood ({type(error).__name__})"}


def take_all(connection, consumer, events, without_receive=False):
    """A batch in one transaction. In each lane, nothing behind an event that was not taken is taken."""
    results, stopped = [], set()
    with connection.transaction():
        for event in events:
            lane = lane_of(event)
            if lane in stopped:
                results.append("blocked")
                continue
            result = take(connection, consumer, event, without_receive)
            # Nor behind a repeat: a sender that is late and was replaced begins with repeats, and what
            # follows them may have been set aside meanwhile. One that is in time sends the rest again.
            if result != "accepted" and (result != "duplicate" or "onewriteprevious" in event):
                stopped.add(lane)
            results.append(result)
    return results  # after the commit


def is_signed(secret, headers, body):
    """Whether the request carries a Standard Webhooks signature by the secret, made just now."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > CLOCKS_APART_MAX_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    wanted = "v1," + base64.b64encode(digest).decode()
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(wanted.encode(), one.encode()) for one in given)


class Receiver(BaseHTTPRequestHandler):
    """One connection of a relay, with a database connection of its own."""

    protocol_version = "HTTP/1.1"
    settings = None

    def setup(self):
        super().setup()
        self.database = None

    def finish(self):
        if self.database is not None:
            self.database.close()
        super().finish()

    def opened(self):
        if self.database is None or self.database.closed:
            self.database = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        return self.database

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True  # its body is not read
            return self.answer(413, {"detail": "too large, or of unknown length"})
        body = self.rfile.read(int(length))
        if not self.is_known(body):
            return None
        try:
            events = json.loads(body)
            events = events if isinstance(events, list) else [events]
            if not all(isinstance(event, dict) and {"source", "id", "type"} <= event.keys() for event in events):
                raise ValueError
        except ValueError:
            return self.answer(400, {"detail": "not a CloudEvent or a batch of them"})
        settings = self.settings
        return self.with_database(
            lambda connection: {
                "results": take_all(connection, settings.consumer, events, settings.without_receive)
            }
        )

    def do_GET(self):
        """Tells a relay how far this consumer is, so that a source that went back in time is noticed."""
        if not self.is_known(b""):
            return None
        asked = parse_qs(urlsplit(self.path).query)
        try:
            lane = (asked["source"][0], asked["incarnation"][0])
        except KeyError:
            return self.answer(400, {"detail": "source and incarnation are wanted"})
        return self.with_database(
            lambda connection: {
                "marks": connection.execute(
                    "SELECT partition, sequence, last_id FROM onewrite.inbox"
                    " WHERE consumer = %s AND source = %s AND incarnation = %s",
                    (self.settings.consumer, *lane),
                ).fetchall()
            }
        )

    def is_known(self, body):
        secret = os.environ.get("WEBHOOK_SECRET")
        if secret and not is_signed(secret, self.headers, body):
            self.answer(401, {"detail": "no signature matches"})
            return False
        return True

    def with_database(self, work):
        try:
            reply = work(self.opened())
        except psycopg.Error as error:
            # Perhaps the commit's answer was lost: nothing is known, the relay sends it again.
            self.log_error("the database: %s", error)
            return self.answer(503, {"detail": "the database cannot be used now"})
        return self.answer(200, reply)

    def answer(self, status, reply):
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code="-", size="-"):
        """Not a line for each request."""


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--port", type=int, default=8080)
    arguments.add_argument("--consumer", default="billing", help="the name under which marks are kept")
    arguments.add_argument(
        "--without-receive", action="store_true", help="to see what a repeat does then: it takes effect again"
    )
    Receiver.settings = arguments.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", Receiver.settings.port), Receiver)
    server.daemon_threads = True
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
