SELECT true AS found FROM bar WHERE symbol = $1 LIMIT 1
