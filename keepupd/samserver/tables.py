"""The catalog's tables, and the values a new catalog knows. Times are whole seconds since 1970 UTC.

`files.located` is kept by triggers, so that the availability of a file is one column and never out of step with its
locations. A snapshot is being filled while `ready` is 0; one that stayed so is dropped at start.
"""

import sqlite3

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE files (
    file_id INTEGER PRIMARY KEY, file_name TEXT NOT NULL UNIQUE, file_size INTEGER NOT NULL, file_type TEXT NOT NULL,
    file_format TEXT, data_tier TEXT, data_stream TEXT, group_name TEXT, content_status TEXT NOT NULL,
    application_id INTEGER, event_count INTEGER, first_event INTEGER, last_event INTEGER, start_time INTEGER,
    end_time INTEGER, process_id INTEGER, file_partition INTEGER, lum_block_ranges TEXT, create_date INTEGER NOT NULL,
    user_name TEXT NOT NULL, update_date INTEGER, update_user TEXT, retired_date INTEGER,
    located INTEGER NOT NULL DEFAULT 0);
CREATE INDEX files_by_create_date ON files (create_date);
CREATE INDEX files_by_update_date ON files (update_date) WHERE update_date IS NOT NULL;
CREATE INDEX files_by_data_tier ON files (data_tier);
CREATE INDEX files_by_application ON files (application_id);
CREATE TABLE checksums (file_id INTEGER, checksum TEXT, PRIMARY KEY (file_id, checksum)) WITHOUT ROWID;
CREATE INDEX checksums_by_value ON checksums (checksum);
CREATE TABLE runs (file_id INTEGER, run INTEGER, subrun INTEGER, run_type TEXT);
CREATE INDEX runs_by_file ON runs (file_id);
CREATE INDEX runs_by_run ON runs (run, subrun);
CREATE TABLE parentage (child_id INTEGER, parent_id INTEGER, PRIMARY KEY (child_id, parent_id)) WITHOUT ROWID;
CREATE INDEX parentage_by_parent ON parentage (parent_id, child_id);
CREATE TABLE parameters (
    param_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE, data_type TEXT NOT NULL);
CREATE TABLE file_parameters (file_id INTEGER, param_id INTEGER, value, PRIMARY KEY (file_id, param_id)) WITHOUT ROWID;
CREATE INDEX file_parameters_by_value ON file_parameters (param_id, value);
CREATE TABLE locations (
    location_id INTEGER PRIMARY KEY, file_id INTEGER NOT NULL, location TEXT NOT NULL, full_path TEXT NOT NULL,
    path TEXT NOT NULL, tape_label TEXT, location_type TEXT NOT NULL, canonical TEXT NOT NULL,
    UNIQUE (file_id, canonical));
CREATE TRIGGER location_added AFTER INSERT ON locations BEGIN
    UPDATE files SET located = 1 WHERE file_id = new.file_id AND located = 0; END;
CREATE TRIGGER location_removed AFTER DELETE ON locations BEGIN
    UPDATE files SET located = EXISTS (SELECT 1 FROM locations WHERE file_id = old.file_id)
    WHERE file_id = old.file_id; END;
CREATE TABLE data_disks (
    mount_point TEXT PRIMARY KEY, node TEXT NOT NULL, dir TEXT NOT NULL, disk_type TEXT NOT NULL,
    url_prefixes TEXT NOT NULL);
CREATE TABLE registered (type TEXT, value TEXT, PRIMARY KEY (type, value)) WITHOUT ROWID;
CREATE TABLE applications (
    application_id INTEGER PRIMARY KEY, family TEXT, name TEXT, version TEXT, UNIQUE (family, name, version));
CREATE TABLE users (username TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE definitions (
    definition_id INTEGER PRIMARY KEY AUTOINCREMENT, defname TEXT NOT NULL UNIQUE, dimensions TEXT NOT NULL,
    username TEXT, group_name TEXT, description TEXT, create_date INTEGER NOT NULL);
CREATE TABLE snapshots (
    snapshot_id INTEGER PRIMARY KEY AUTOINCREMENT, definition_id INTEGER NOT NULL, version INTEGER NOT NULL,
    digest TEXT NOT NULL, file_count INTEGER NOT NULL, create_date INTEGER NOT NULL, ready INTEGER NOT NULL DEFAULT 0);
CREATE INDEX snapshots_by_definition ON snapshots (definition_id, version);
CREATE TABLE snapshot_files (
    snapshot_id INTEGER, number INTEGER, file_id INTEGER, PRIMARY KEY (snapshot_id, number)) WITHOUT ROWID;
CREATE TABLE projects (
    project_id INTEGER PRIMARY KEY AUTOINCREMENT, project_name TEXT NOT NULL UNIQUE, station TEXT NOT NULL,
    group_name TEXT, username TEXT, description TEXT, snapshot_id INTEGER NOT NULL, next_number INTEGER NOT NULL,
    start_time INTEGER NOT NULL, end_time INTEGER);
CREATE INDEX projects_by_snapshot ON projects (snapshot_id);
CREATE TABLE processes (
    process_id INTEGER PRIMARY KEY AUTOINCREMENT, project_id INTEGER NOT NULL, status TEXT NOT NULL, appfamily TEXT,
    appname TEXT, appversion TEXT, node TEXT, username TEXT, delivery_location TEXT, description TEXT,
    file_limit INTEGER, schemas TEXT, start_time INTEGER NOT NULL, end_time INTEGER);
CREATE INDEX processes_by_project ON processes (project_id, description);
CREATE TABLE deliveries (
    delivery_id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL, file_id INTEGER NOT NULL, process_id INTEGER,
    status TEXT NOT NULL, url TEXT, delivered INTEGER NOT NULL, updated INTEGER NOT NULL);
CREATE UNIQUE INDEX deliveries_once ON deliveries (project_id, file_id);
CREATE INDEX deliveries_by_process ON deliveries (process_id, status);
CREATE INDEX deliveries_by_file ON deliveries (file_id);
"""

GENERIC_VALUES = {  # type -> (what it is, the values a new catalog has)
    "data_tiers": ("processing level of a file", (
        "raw", "generated", "simulated", "detector-simulated", "trigger-simulated", "hit-reconstructed",
        "full-reconstructed", "reco-merged", "calibrated", "filtered", "sliced", "root-tuple", "root-histogram",
        "root-tuple-virtual", "histogram", "ntuple", "decoded-raw", "storage-testing", "log", "config", "unknown",
        "other")),
    "data_streams": ("data stream of a file", (
        "out1", "all", "physics", "cosmics", "calibration", "test", "noise", "commissioning", "unknown", "other")),
    "file_types": ("kind of file", (
        "detector", "mc", "test", "test-data", "importedDetector", "importedSimulated", "nonPhysicsGeneric",
        "nonphysicsgeneric", "physicsGeneric", "histogram", "unknown", "other")),
    "file_formats": ("format of a file", (
        "root", "artroot", "hdf5", "txt", "text", "data", "binary", "json", "csv", "tar", "gz", "tgz", "zip", "log",
        "larsoft", "caf", "unknown", "other")),
    "groups": ("working groups", ()),
    "run_types": ("kind of run", (
        "physics", "mc", "test", "cosmics", "calibration", "commissioning", "noise", "protodune-sp", "protodune-dp",
        "protodune-hd", "protodune-vd", "fardet", "fardet-hd", "fardet-vd", "neardet", "unknown", "other")),
}


def create(db: sqlite3.Connection, experiment: str) -> None:
    """Make the tables of a new catalog, or check those of an old one. Raises RuntimeError for an unknown schema."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, SCHEMA_VERSION):
        raise RuntimeError(f"the catalog has schema {version}, this server knows {SCHEMA_VERSION}; use the server "
                           "that wrote it, or start with a new --db FILE")
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
        rows = [(kind, value) for kind, (_, values) in GENERIC_VALUES.items() for value in values]
        db.executemany("INSERT INTO registered VALUES (?, ?)", [*rows, ("groups", experiment)])
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.commit()


def drop_unfinished_snapshots(db: sqlite3.Connection) -> None:
    """Forget snapshots whose filling was cut short; no client was ever told their number."""
    unfinished = "SELECT snapshot_id FROM snapshots WHERE ready = 0"
    db.execute(f"DELETE FROM snapshot_files WHERE snapshot_id IN ({unfinished})")
    db.execute("DELETE FROM snapshots WHERE ready = 0")
    db.commit()
