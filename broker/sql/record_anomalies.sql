-- $1 causes, $2 venues, $3 payloads
INSERT INTO inbox (cause, venue, payload)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT DO NOTHING
