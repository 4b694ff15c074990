-- $1 customer_id
SELECT content FROM account_configuration WHERE customer_id = $1
