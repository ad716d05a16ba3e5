-- The log is searched by type and by the time at which the relay took an event, too.
CREATE INDEX events_of_type ON events (type, position);
CREATE INDEX events_by_time ON events (received);
