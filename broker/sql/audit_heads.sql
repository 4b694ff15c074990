SELECT chain, number, hash FROM audit_head ORDER BY chain
