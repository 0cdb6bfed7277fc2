INSERT INTO onewrite_outbox (
    partition, time, id, type, aggregatetype, aggregateid, key, content_type, schema_version, source,
    data_schema, correlation_id, causation_id, user_id, dedup_key, traceparent, headers, payload, placed_at
) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
