-- $1 event_id, $2 content, $3 price of a new share; what was registered first stays
INSERT INTO corporate_action (event_id, content, price) VALUES ($1, $2, $3) ON CONFLICT (event_id) DO NOTHING
