-- Both would sell the same shares. (One that is to replace another is the same exit.)
SELECT group_id, string_agg(trade_id::text, ' ' ORDER BY seq) AS exits
FROM trade
WHERE group_id IS NOT NULL AND role <> 'entry' AND status IN ('IN PROGRESS', 'PARTIALLY FILLED')
GROUP BY group_id HAVING count(DISTINCT role) > 1
