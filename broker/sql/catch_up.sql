-- Writes something, so that its commit waits for the standby as every commit does.
SELECT pg_logical_emit_message(true, 'stockbroker', '')
