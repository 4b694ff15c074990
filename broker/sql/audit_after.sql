-- $1 chain, $2 after this number, $3 rows
SELECT number, at, actor, action, content, hash FROM audit WHERE chain = $1 AND number > $2 ORDER BY number LIMIT $3
