"""Carries out steps of sagas over HTTP, with Python's standard library alone.

    python3 bank.py --port 8090 --database bank.db

`onewrite serve --participant bank=http://127.0.0.1:8090` asks for its steps: `bank.charge` and so on. Every attempt
brings the key of its step, the same one each time. The key, the effect and the answer are one transaction here, so a
repetition (a lost answer, a process that was killed) is answered as before and changes nothing.

A compensation may come for an action that never came, or before it: it takes the action's key first, so that the
action has no effect any more.
"""

import argparse
import json
import sqlite3
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY_BYTES_MAX = 3 * 1024 * 1024
UNDONE = "/compensation"

TABLES = """
CREATE TABLE IF NOT EXISTS call (key TEXT PRIMARY KEY, outcome TEXT NOT NULL, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS effect (n INTEGER PRIMARY KEY, step TEXT NOT NULL, order_id TEXT NOT NULL, cents INTEGER NOT NULL);
"""


class No(Exception):
    """The business says no, for good."""


def charge(order):
    if order["customer"].startswith("poor"):
        raise No("the card was refused")
    return "charge", order["cents"]


def refund(order):
    return "refund", -order["cents"]


def confirm(order):
    if order["country"] == "Atlantis":
        raise No("nobody delivers there")
    return "confirm", 0


def ship(order):
    return "ship", 0


STEPS = {"/charge": charge, "/refund": refund, "/confirm": confirm, "/ship": ship}


def carry_out(database, key, compensates, path, body, forgets=False):
    """Once for each key: the outcome and the answer."""
    with database:  # one transaction, committed at its end
        database.execute("BEGIN IMMEDIATE")
        known = database.execute("SELECT outcome, answer FROM call WHERE key = ?", (key,)).fetchone()
        if known and not forgets:
            return known
        outcome, answer = "done", {}
        is_wanted = True
        if compensates:
            action = key.removesuffix(UNDONE)
            late = "it is compensated already"
            new = database.execute(
                "INSERT OR IGNORE INTO call VALUES (?, 'failed', ?)", (action, json.dumps(late))
            )
            acted = database.execute("SELECT outcome FROM call WHERE key = ?", (action,)).fetchone()
            # Nothing to make good where the action never came, or said no.
            is_wanted = new.rowcount == 0 and acted[0] == "done"
            body = body["input"]
        if is_wanted:
            try:
                step, cents = STEPS[path](body)
                database.execute(
                    "INSERT INTO effect (step, order_id, cents) VALUES (?, ?, ?)", (step, body["id"], cents)
                )
                answer = {"cents": cents}
            except No as no:
                outcome, answer = "failed", str(no)
        answer = json.dumps(answer)
        database.execute("INSERT OR REPLACE INTO call VALUES (?, ?, ?)", (key, outcome, answer))
        return outcome, answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        key = self.headers.get("Idempotency-Key", "").strip('"')
        compensates = self.headers.get("Onewrite-Direction") == "compensation"
        if size > BODY_BYTES_MAX or not key or self.path not in STEPS:
            self.close_connection = True  # the body is not read
            return self.answer(400, None, "no key, no such step, or too large")
        try:
            body = json.loads(self.rfile.read(size))
            with closing(sqlite3.connect(self.server.database, timeout=30, isolation_level=None)) as database:
                outcome, answer = carry_out(database, key, compensates, self.path, body, self.server.forgets)
        except (KeyError, TypeError, ValueError) as error:
            return self.answer(400, "failed", f"the order cannot be read: {error!r}")
        except sqlite3.Error as error:
            return self.answer(503, "unknown", str(error))
        self.server.answered += 1
        if self.server.lose_every and self.server.answered % self.server.lose_every == 0:
            self.close_connection = True  # it is done, and nobody hears of it
            return None
        return self.answer(200, outcome, answer)

    def answer(self, status, outcome, text):
        data = text.encode()
        self.send_response(status)
        if outcome:
            self.send_header("Onewrite-Outcome", outcome)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """The server's own log is enough."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--database", default="bank.db")
    parser.add_argument("--lose-every", type=int, default=0, help="lose so many answers: every Nth")
    parser.add_argument("--forget-keys", action="store_true", help="a broken bank: it acts whenever it is asked")
    args = parser.parse_args()
    with closing(sqlite3.connect(args.database)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(TABLES)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.database, server.forgets = args.database, args.forget_keys
    server.lose_every, server.answered = args.lose_every, 0
    print(f"listening at {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
