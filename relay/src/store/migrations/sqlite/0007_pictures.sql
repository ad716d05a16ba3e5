-- Pictures of robots as they were, for looking back; and the position before which that is not possible any more.
CREATE TABLE pictures (
    robot    INTEGER NOT NULL,
    position INTEGER NOT NULL,
    taken    INTEGER NOT NULL,
    picture  TEXT    NOT NULL,
    PRIMARY KEY (robot, position)
) STRICT;
CREATE INDEX pictures_by_time ON pictures (taken, position);
CREATE TABLE log_base (
    position INTEGER PRIMARY KEY
) STRICT;
INSERT INTO robots (robot) SELECT DISTINCT aggregate_id FROM events WHERE type = 'robot.registered'
    ON CONFLICT (robot) DO NOTHING;
