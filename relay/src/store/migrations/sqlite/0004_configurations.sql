-- Desired configurations, as their events tell of them; without a state until the robot said what became of one.
CREATE TABLE configurations (
    robot   TEXT    NOT NULL,
    version INTEGER NOT NULL,
    desired TEXT    NOT NULL,
    state   TEXT,
    PRIMARY KEY (robot, version)
) STRICT, WITHOUT ROWID;
