-- Days of telemetry that are over, packed: samples (level 0) and roll-ups of a minute, a quarter of an hour, an hour.
-- With row ids: pages of blocks that come day by day are full, and blocks of a kilobyte or more do not overflow.
CREATE TABLE telemetry_blocks (
    robot  INTEGER NOT NULL,
    metric INTEGER NOT NULL,
    level  INTEGER NOT NULL,
    day    INTEGER NOT NULL,
    data   BLOB    NOT NULL,
    PRIMARY KEY (robot, metric, level, day)
) STRICT;
