-- Pictures of robots as they were, for looking back; and the position before which that is not possible any more.
CREATE TABLE pictures (
    robot    bigint NOT NULL,
    position bigint NOT NULL,
    taken    bigint NOT NULL,
    picture  text   NOT NULL,
    PRIMARY KEY (robot, position)
);
CREATE INDEX pictures_by_time ON pictures (taken, position);
CREATE TABLE log_base (
    position bigint PRIMARY KEY
);
INSERT INTO robots (robot) SELECT DISTINCT aggregate_id FROM events WHERE type = 'robot.registered'
    ON CONFLICT (robot) DO NOTHING;
