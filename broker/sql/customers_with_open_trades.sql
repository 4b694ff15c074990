SELECT customer_id, (SELECT version FROM account WHERE owner_id = customer_id AND asset = '$USD') AS version
FROM (
    SELECT DISTINCT customer_id FROM trade WHERE status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED')
) AS with_open_trades
ORDER BY customer_id
