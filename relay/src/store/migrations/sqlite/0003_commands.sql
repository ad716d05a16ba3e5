-- Commands, as their events tell of them.
CREATE TABLE commands (
    id      TEXT PRIMARY KEY,
    robot   TEXT    NOT NULL,
    command TEXT    NOT NULL,
    issued  INTEGER NOT NULL,
    state   TEXT    NOT NULL,
    updated INTEGER NOT NULL,
    result  TEXT,
    reason  TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX commands_of_robot ON commands (robot, issued);
CREATE INDEX commands_open ON commands (issued) WHERE state NOT IN ('successful', 'failed');
