-- The reaction to one event. Run again with the same event it changes nothing; before its predecessor it
-- fails with OW017 and changes nothing either.
--
-- source, id, incarnation, partition, sequence and previous are the event's attributes of these names,
-- with `onewrite` before the last four.
--
--     psql "$DATABASE_URL" -v consumer=billing -v source=shop -v id=… -v incarnation=… -v partition=… \
--         -v sequence=… -v previous=… -v order=o-1 -v customer=minjun -v cents=4200 -f receive.sql

\set ON_ERROR_STOP on

BEGIN;

SELECT onewrite.receive(
    :'consumer', :'source', :'id', :'incarnation', :partition, :sequence, :previous
) AS is_new \gset

\if :is_new
INSERT INTO invoices (order_id, customer, cents) VALUES (:'order', :'customer', :cents);
\endif

COMMIT;
