-- The exits of a bracket or an OTO trade no more than its entry has: nothing is sold twice.
SELECT group_id, sum(filled_quantity) FILTER (WHERE role = 'entry') AS entered,
       sum(filled_quantity) FILTER (WHERE role <> 'entry') AS left_again
FROM trade
WHERE order_class IN ('bracket', 'oto')
GROUP BY group_id
HAVING sum(filled_quantity) FILTER (WHERE role <> 'entry') > sum(filled_quantity) FILTER (WHERE role = 'entry')
