SELECT customer_id FROM customer WHERE status = 'suspended'
