-- The tables of both example services; they may stand in one database or in two.

-- What the shop sold: written by emit.py and emit.sql.
CREATE TABLE IF NOT EXISTS orders (
    id       text PRIMARY KEY,
    customer text NOT NULL,
    cents    bigint NOT NULL
);

-- What billing has to collect: written by receive.py and receive.sql. Nothing here refuses a repeat.
CREATE TABLE IF NOT EXISTS invoices (
    n        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL,
    customer text NOT NULL,
    cents    bigint NOT NULL
);
