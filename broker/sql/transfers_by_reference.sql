-- $1 references of movements of cash
SELECT transfer.reference, transfer.customer_id, posting.amount
FROM transfer
JOIN posting ON posting.owner_id = transfer.customer_id AND posting.transfer_id = transfer.transfer_id
WHERE transfer.kind = 'cash' AND transfer.reference = ANY($1::text[])
