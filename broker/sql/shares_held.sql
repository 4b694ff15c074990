-- $1 symbol
SELECT count(*) AS holders, coalesce(sum(balance), 0)::bigint AS shares FROM account
WHERE asset = $1 AND asset <> '$USD' AND owner_id > 0 AND balance > 0
