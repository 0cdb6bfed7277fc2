-- Schema version 4: sagas that are steps of others.

-- The step that it is, as the other saga's id and the step's name: 01964b2e-7d1c-7a00-8000-0123456789ab/ship.
ALTER TABLE onewrite.saga ADD COLUMN parent text;
