-- Double entry: for each asset, what one account loses another gains.
SELECT transfer_id, asset, sum(amount) AS excess FROM posting GROUP BY transfer_id, asset HAVING sum(amount) <> 0
