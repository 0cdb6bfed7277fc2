-- Schema version 6: sagas that ended long ago are deleted. The role onewrite_relay may do so from now on (0001_roles.sql,
-- whose grants are made with every migration).
DO 0
