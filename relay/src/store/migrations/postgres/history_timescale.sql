-- History with TimescaleDB: hypertables, a chunk per week of samples and per month of packed days.
CREATE TABLE telemetry (
    robot  bigint NOT NULL,
    metric bigint NOT NULL,
    ts     bigint NOT NULL,
    value  double precision NOT NULL,
    PRIMARY KEY (robot, metric, ts)
);
SELECT create_hypertable('telemetry', 'ts', chunk_time_interval => 604800000::bigint);

CREATE TABLE telemetry_blocks (
    robot  bigint NOT NULL,
    metric bigint NOT NULL,
    level  bigint NOT NULL,
    day    bigint NOT NULL,
    data   bytea  NOT NULL,
    PRIMARY KEY (robot, metric, level, day)
);
SELECT create_hypertable('telemetry_blocks', 'day', chunk_time_interval => 30::bigint);

-- Chunks come by themselves.
CREATE FUNCTION telemetry_prepare(at bigint) RETURNS void LANGUAGE sql AS 'SELECT';

CREATE FUNCTION telemetry_forget(before bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM drop_chunks('telemetry', older_than => before);
    PERFORM drop_chunks('telemetry_blocks', older_than => before / 86400000);
END $$;
