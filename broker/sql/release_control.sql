-- $1 scope
DELETE FROM control WHERE scope = $1 RETURNING scope
