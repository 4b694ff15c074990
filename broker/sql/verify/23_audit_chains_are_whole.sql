-- Each record's hash is that of the record and the hash before it; its numbers have no gap, and its head is the last one.
WITH linked AS (
    SELECT chain, number, hash, at, actor, action, content,
           lag(hash, 1, sha256('')) OVER in_order AS before,
           row_number() OVER in_order AS expected
    FROM audit WINDOW in_order AS (PARTITION BY chain ORDER BY number)
)
SELECT chain, number, 'the record' AS wrong FROM linked
WHERE number <> expected OR hash <> hash_of_record(before, chain, number, at, actor, action, content)
UNION ALL
SELECT audit_head.chain, audit_head.number, 'the head' FROM audit_head
LEFT JOIN LATERAL (
    SELECT number, hash FROM audit WHERE audit.chain = audit_head.chain ORDER BY number DESC LIMIT 1
) AS last ON true
WHERE audit_head.number <> coalesce(last.number, 0) OR audit_head.hash <> coalesce(last.hash, sha256(''))
UNION ALL
SELECT each, NULL, 'the head is gone' FROM generate_series(0, 16) AS each
WHERE NOT EXISTS (SELECT FROM audit_head WHERE audit_head.chain = each)
