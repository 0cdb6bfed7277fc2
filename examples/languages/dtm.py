"""A transfer between two accounts by the client of dtm, unchanged, over `onewrite serve --dtm`.

    onewrite serve --store sqlite:sagas.db --dtm --allow-private-urls
    python3 dtm.py bank --port 8090
    python3 dtm.py saga g-1 --to mina --cents 100
    python3 dtm.py message g-2 --to mina --cents 100

The bank carries out the branches. It keeps dtm's barrier in the transaction of each effect: a branch that comes twice,
a compensation whose action never came, and an action behind its compensation change nothing.
"""

import argparse
import json
import os
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from dtmcli import barrier, msg, saga, utils

BODY_BYTES_MAX = 1024 * 1024
UNDOES = {"compensate": "action"}

TABLES = """
CREATE TABLE IF NOT EXISTS barrier (gid TEXT, branch TEXT, op TEXT, reason TEXT, PRIMARY KEY (gid, branch, op));
CREATE TABLE IF NOT EXISTS effect (n INTEGER PRIMARY KEY, gid TEXT, step TEXT, account TEXT, cents INTEGER);
"""


def connect(path):
    return closing(sqlite3.connect(path, timeout=30, isolation_level=None))


def enters(database, gid, branch, op):
    """Whether this branch is to have its effect: inserts first, and looks at what was there."""

    def insert(name):
        row = (gid, branch, name, op)
        return database.execute("INSERT OR IGNORE INTO barrier VALUES (?, ?, ?, ?)", row).rowcount

    undone = op in UNDOES and insert(UNDOES[op]) > 0
    return insert(op) > 0 and not undone


def move(database, gid, step, account, cents):
    database.execute(
        "INSERT INTO effect (gid, step, account, cents) VALUES (?, ?, ?, ?)", (gid, step, account, cents)
    )


class Bank(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        if size > BODY_BYTES_MAX:
            self.close_connection = True  # the body is not read
            return self.answer(413)
        transfer = json.loads(self.rfile.read(size))
        url = urlsplit(self.path)
        step, asked = url.path.strip("/"), {name: all[0] for name, all in parse_qs(url.query).items()}
        if step == "in" and transfer["to"] == "closed":
            return self.answer(409, "FAILURE: the account is closed")
        account, sign = {
            "out": ("from", -1), "out_back": ("from", 1), "in": ("to", 1), "in_back": ("to", -1)
        }[step]
        with connect(self.server.database) as database, database:
            database.execute("BEGIN IMMEDIATE")
            is_new = enters(database, asked["gid"], asked["branch_id"], asked["op"])
            if is_new or self.server.forgets:
                move(database, asked["gid"], step, transfer[account], sign * transfer["cents"])
        self.server.answered += 1
        if self.server.lose_every and self.server.answered % self.server.lose_every == 0:
            self.close_connection = True  # it is done, and nobody hears of it
            return None
        return self.answer(200)

    def do_GET(self):
        """Whether the sender of a message has committed. One that has not will not any more."""
        gid = parse_qs(urlsplit(self.path).query)["gid"][0]
        with connect(self.server.database) as database, database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT OR IGNORE INTO barrier VALUES (?, '00', 'msg', 'rollback')", (gid,))
            query = "SELECT reason FROM barrier WHERE gid = ? AND branch = '00' AND op = 'msg'"
            committed = database.execute(query, (gid,)).fetchone()[0] == "msg"
        return self.answer(200 if committed else 409)

    def answer(self, status, text=""):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """The server's own log is enough."""


def bank(args):
    with connect(args.database) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(TABLES)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Bank)
    server.database, server.forgets = args.database, args.forget_branches
    server.lose_every, server.answered = args.lose_every, 0
    print(f"listening at {server.server_port}", flush=True)
    server.serve_forever()


def transfer(args):
    return {"from": "minjun", "to": args.to, "cents": args.cents}


def submit_saga(args):
    both = saga.Saga(args.dtm, args.gid)
    both.add(transfer(args), f"{args.bank}/out", f"{args.bank}/out_back")
    both.add(transfer(args), f"{args.bank}/in", f"{args.bank}/in_back")
    both.trans_base.wait_result = args.wait
    both.submit()


def send_message(args):
    """Takes the money out here, and has it put in there, if and only if the former is committed."""
    message = msg.Msg(args.dtm, args.gid).add(transfer(args), f"{args.bank}/in")
    message.trans_base.timeout_to_fail = 1

    def take_out(branch):
        with connect(args.database) as database, database:
            database.execute("BEGIN IMMEDIATE")
            if not enters(database, branch.gid, branch.branch_id, branch.op):
                raise utils.DTMFailureError("it was given up")
            if args.fail:
                raise utils.DTMFailureError("there is not enough")
            move(database, branch.gid, "out", "minjun", -args.cents)
            if args.die == "before":
                os._exit(9)
        if args.die == "behind":
            os._exit(9)

    if args.unprepared:
        take_out(barrier.BranchBarrier("msg", args.gid, "00", "msg"))
        return message.submit()
    return message.do_and_submit(f"{args.bank}/committed", take_out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", default="accounts.db")
    verbs = parser.add_subparsers(required=True)
    for name, run in (("bank", bank), ("saga", submit_saga), ("message", send_message)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run)
        if name == "bank":
            verb.add_argument("--port", type=int, default=8090)
            verb.add_argument("--lose-every", type=int, default=0, help="lose so many answers: every Nth")
            verb.add_argument("--forget-branches", action="store_true", help="a broken bank: it acts whenever it is asked")
            continue
        verb.add_argument("gid")
        verb.add_argument("--dtm", default="http://127.0.0.1:8480/api/dtmsvr")
        verb.add_argument("--bank", default="http://127.0.0.1:8090")
        verb.add_argument("--to", default="mina")
        verb.add_argument("--cents", type=int, default=100)
        verb.add_argument("--wait", action="store_true", help="for the result")
        verb.add_argument("--fail", action="store_true", help="the business says no here")
        verb.add_argument("--unprepared", action="store_true", help="a broken sender: the server hears of it afterwards")
        verb.add_argument("--die", choices=["before", "behind"], help="end without a word, before or behind the commit")
    args = parser.parse_args()
    try:
        args.run(args)
    except utils.DTMFailureError as error:
        sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main()
