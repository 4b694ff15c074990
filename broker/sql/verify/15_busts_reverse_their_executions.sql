-- The exchange gets back what it had given in the execution, and gives back what it had got.
SELECT bust.venue, bust.execution_id, asset, sum(posting.amount) AS left_over
FROM bust
JOIN execution USING (venue, execution_id)
JOIN posting ON posting.transfer_id IN (bust.transfer_id, execution.transfer_id) AND posting.owner_id < 0
WHERE -posting.owner_id % 10 = 1
GROUP BY bust.venue, bust.execution_id, asset
HAVING sum(posting.amount) <> 0
