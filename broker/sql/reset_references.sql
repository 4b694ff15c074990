-- $1 references of resets
SELECT reference FROM transfer WHERE kind = 'reset' AND reference = ANY($1::text[])
