-- $1 references of corporate actions
SELECT reference FROM transfer WHERE kind = 'corporate' AND reference = ANY($1::text[])
