-- A token may let in more keys than one: each use is a row.
CREATE TABLE token_uses (
    token       TEXT    NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    key         BLOB    NOT NULL,
    used        INTEGER NOT NULL,
    certificate TEXT    NOT NULL,
    PRIMARY KEY (token, key)
) STRICT, WITHOUT ROWID;
INSERT INTO token_uses (token, key, used, certificate)
    SELECT id, used_key, used, certificate FROM tokens
    WHERE used_key IS NOT NULL AND used IS NOT NULL AND certificate IS NOT NULL;
ALTER TABLE tokens ADD COLUMN max_uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tokens DROP COLUMN used_key;
ALTER TABLE tokens DROP COLUMN used;
ALTER TABLE tokens DROP COLUMN certificate;
