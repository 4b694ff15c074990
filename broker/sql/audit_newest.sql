-- $1 chain, $2 rows
SELECT number, at, actor, action, content, hash FROM audit WHERE chain = $1 ORDER BY number DESC LIMIT $2
