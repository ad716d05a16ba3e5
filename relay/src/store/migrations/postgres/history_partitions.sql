-- History without TimescaleDB: a partition per month (UTC) of samples and of packed days, made when the first sample of
-- the month comes, dropped when nothing of the month is kept any more.
CREATE TABLE telemetry (
    robot  bigint NOT NULL,
    metric bigint NOT NULL,
    ts     bigint NOT NULL,
    value  double precision NOT NULL,
    PRIMARY KEY (robot, metric, ts)
) PARTITION BY RANGE (ts);

CREATE TABLE telemetry_blocks (
    robot  bigint NOT NULL,
    metric bigint NOT NULL,
    level  bigint NOT NULL,
    day    bigint NOT NULL,
    data   bytea  NOT NULL,
    PRIMARY KEY (robot, metric, level, day)
) PARTITION BY RANGE (day);

CREATE FUNCTION telemetry_prepare(at bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month  timestamp := date_trunc('month', to_timestamp(at / 1000.0) AT TIME ZONE 'UTC');
    first  bigint    := extract(epoch FROM month) / 86400;
    beyond bigint    := extract(epoch FROM month + interval '1 month') / 86400;
    name   text;
    parent text;
    width  bigint;
BEGIN
    FOR parent, width IN VALUES ('telemetry', 86400000::bigint), ('telemetry_blocks', 1::bigint)
    LOOP
        name := parent || to_char(month, '_YYYY_MM');
        IF to_regclass(name) IS NULL THEN
            -- Attached, not created as a partition: so nobody who reads has to wait.
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, parent);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                           parent, name, first * width, beyond * width);
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION telemetry_forget(before bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('telemetry'::regclass, 'telemetry_blocks'::regclass)
    LOOP
        IF extract(epoch FROM to_date(right(name, 7), 'YYYY_MM') + interval '1 month') * 1000 <= before THEN
            EXECUTE format('DROP TABLE %I', name);
        END IF;
    END LOOP;
END $$;
