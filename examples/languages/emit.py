"""Writes orders, each in one transaction with the event that tells of it.

    DATABASE_URL=postgres://… python3 emit.py --count 10 [--insert]
"""

import argparse
import json
import os

import psycopg


def place_order(connection, order_id, customer, cents, insert):
    data = json.dumps({"customer": customer, "cents": cents})
    # One transaction: the order and its event are committed together, or neither is.
    with connection.transaction():
        connection.execute(
            "INSERT INTO orders (id, customer, cents) VALUES (%s, %s, %s)",
            (order_id, customer, cents),
        )
        # The key is what stays in order together: here the orders of one customer.
        if insert:
            connection.execute(
                "INSERT INTO onewrite.outbox"
                " (aggregatetype, aggregateid, type, payload, key, correlation_id)"
                " VALUES ('Order', %s, 'OrderPlaced', %s, %s, %s)",
                (order_id, data, customer, order_id),
            )
        else:
            connection.execute(
                "SELECT onewrite.emit('Order', %s, 'OrderPlaced', %s, key => %s, correlation_id => %s)",
                (order_id, data, customer, order_id),
            )


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=10, help="how many orders")
    arguments.add_argument("--customers", type=int, default=3, help="of how many customers")
    arguments.add_argument("--first", type=int, default=1, help="the first order's number")
    arguments.add_argument("--insert", action="store_true", help="with a plain INSERT, not the function")
    given = arguments.parse_args()
    # Behind a pooler that hands out connections per transaction, add prepare_threshold=None.
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        for number in range(given.first, given.first + given.count):
            customer = f"customer-{number % given.customers}"
            place_order(connection, f"o-{number:06}", customer, 100 + number, given.insert)
    print(f"{given.count} orders placed")


if __name__ == "__main__":
    main()
