"""The tables of a manifest."""

FORMAT = 3
# `n_bytes` is what an entry takes on the disk, its file included; triggers add it up by owner.
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    id TEXT PRIMARY KEY, change TEXT NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS usage (owner TEXT PRIMARY KEY, n_bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    name TEXT PRIMARY KEY, owner TEXT NOT NULL, text TEXT NOT NULL, sha256 TEXT NOT NULL,
    n_bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    slot_bytes INTEGER NOT NULL, n_slots INTEGER NOT NULL, n_live INTEGER NOT NULL DEFAULT 0,
    n_bytes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS rows (
    kind TEXT NOT NULL, item TEXT NOT NULL, version TEXT NOT NULL, owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'ready', 'unpaired')),
    segment INTEGER NOT NULL REFERENCES segments (id), slot INTEGER NOT NULL, since REAL NOT NULL,
    key_id INTEGER NOT NULL, n_bytes INTEGER NOT NULL,
    PRIMARY KEY (kind, item)
) WITHOUT ROWID;
-- Entries of one size that are only appended and overwritten: SQLite moves entries of other tables
-- between pages, and then may leave a copy that no later deletion overwrites.
CREATE TABLE IF NOT EXISTS row_keys (
    id INTEGER PRIMARY KEY, wrapped BLOB NOT NULL CHECK (length(wrapped) = 60),
    free INTEGER NOT NULL CHECK (free IN (0, 1))
);
CREATE INDEX IF NOT EXISTS free_keys ON row_keys (free) WHERE free = 1;
CREATE INDEX IF NOT EXISTS by_segment ON rows (segment);
CREATE INDEX IF NOT EXISTS by_state ON rows (state) WHERE state <> 'ready';
CREATE TRIGGER IF NOT EXISTS row_added AFTER INSERT ON rows BEGIN
    UPDATE segments SET n_live = n_live + 1 WHERE id = NEW.segment;
END;
CREATE TRIGGER IF NOT EXISTS row_moved AFTER UPDATE OF segment ON rows BEGIN
    UPDATE segments SET n_live = n_live - 1 WHERE id = OLD.segment;
    UPDATE segments SET n_live = n_live + 1 WHERE id = NEW.segment;
END;
CREATE TRIGGER IF NOT EXISTS row_deleted AFTER DELETE ON rows BEGIN
    UPDATE row_keys SET wrapped = zeroblob(60), free = 1 WHERE id = OLD.key_id;
    UPDATE segments SET n_live = n_live - 1 WHERE id = OLD.segment;
END;
CREATE TRIGGER IF NOT EXISTS rows_counted AFTER INSERT ON rows BEGIN
    INSERT INTO usage VALUES (NEW.owner, NEW.n_bytes)
    ON CONFLICT (owner) DO UPDATE SET n_bytes = n_bytes + excluded.n_bytes;
END;
CREATE TRIGGER IF NOT EXISTS rows_discounted AFTER DELETE ON rows BEGIN
    UPDATE usage SET n_bytes = n_bytes - OLD.n_bytes WHERE owner = OLD.owner;
END;
CREATE TRIGGER IF NOT EXISTS segments_counted AFTER INSERT ON segments BEGIN
    INSERT INTO usage VALUES (NEW.owner, NEW.n_bytes)
    ON CONFLICT (owner) DO UPDATE SET n_bytes = n_bytes + excluded.n_bytes;
END;
CREATE TRIGGER IF NOT EXISTS segments_discounted AFTER DELETE ON segments BEGIN
    UPDATE usage SET n_bytes = n_bytes - OLD.n_bytes WHERE owner = OLD.owner;
END;
CREATE TRIGGER IF NOT EXISTS notes_counted AFTER INSERT ON notes BEGIN
    INSERT INTO usage VALUES (NEW.owner, NEW.n_bytes)
    ON CONFLICT (owner) DO UPDATE SET n_bytes = n_bytes + excluded.n_bytes;
END;
CREATE TRIGGER IF NOT EXISTS notes_discounted AFTER DELETE ON notes BEGIN
    UPDATE usage SET n_bytes = n_bytes - OLD.n_bytes WHERE owner = OLD.owner;
END;
"""
