-- $1 at, $2 symbols, $3 their prices
INSERT INTO price_sample (symbol, at, price)
SELECT symbol, $1, price FROM unnest($2::text[], $3::bigint[]) AS sample (symbol, price)
ON CONFLICT DO NOTHING
