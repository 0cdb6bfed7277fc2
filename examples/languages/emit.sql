-- One order and its event: both are committed, or neither.
--
--     psql "$DATABASE_URL" -v order=o-1 -v customer=minjun -v cents=4200 -f emit.sql

\set ON_ERROR_STOP on

BEGIN;

INSERT INTO orders (id, customer, cents) VALUES (:'order', :'customer', :cents);

-- The orders of one customer stay in order, because the customer is the key.
SELECT onewrite.emit(
    'Order', :'order', 'OrderPlaced',
    jsonb_build_object('customer', :'customer'::text, 'cents', :cents)::text,
    key => :'customer',
    correlation_id => :'order'
) AS event_id;

COMMIT;
