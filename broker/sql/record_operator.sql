-- $1 actor, $2 action, $3 content
SELECT record_operator($1, $2, $3)
