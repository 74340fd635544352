"""Every dimension the server knows: where its value is kept, of which type it is, and what it means.

A dimension of a *relation* (runs, locations, snapshots, deliveries ...) is about rows of another table: a file matches
when some row of its own does. `compile.py` decides which conditions must hold on the same row.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """Rows a file can have. `select` finds values of `files.<key>`; `joins` adds a table when its alias is used."""

    key: str
    select: str
    joins: tuple[tuple[str, str], ...] = ()


RELATIONS = {
    "application": Relation("application_id", "SELECT a.application_id FROM applications a"),
    "checksum": Relation("file_id", "SELECT k.file_id FROM checksums k"),
    "runs": Relation("file_id", "SELECT r.file_id FROM runs r"),
    "lum_blocks": Relation("file_id", "SELECT b.file_id FROM (SELECT x.file_id, json_extract(x.lum_block_ranges, "
                           "e.fullkey || '[0]') AS low, json_extract(x.lum_block_ranges, e.fullkey || '[1]') AS high "
                           "FROM files x, json_each(x.lum_block_ranges) e) b"),
    "locations": Relation("file_id", "SELECT l.file_id FROM locations l"),
    "snapshots": Relation("file_id", "SELECT sf.file_id FROM snapshot_files sf", (
        ("s", "JOIN snapshots s ON s.snapshot_id = sf.snapshot_id AND s.ready"),
        ("df", "JOIN definitions df ON df.definition_id = s.definition_id"),
        ("p", "JOIN projects p ON p.snapshot_id = sf.snapshot_id"))),
    "deliveries": Relation("file_id", "SELECT d.file_id FROM deliveries d", (
        ("p", "JOIN projects p ON p.project_id = d.project_id"),
        ("c", "JOIN processes c ON c.process_id = d.process_id"))),
}


@dataclass(frozen=True)
class Field:
    """type: text, int, date, run (run or run.subrun), block (a range low to high that overlaps what is asked for),

    path (with or without node), definition (its files), newest (text, of a definition's newest snapshot).
    """

    column: str
    type: str
    meaning: str
    relation: str | None = None


FIELDS = {
    "file_name": Field("f.file_name", "text", "name of the file"),
    "file_id": Field("f.file_id", "int", "number of the file; 0 is no file"),
    "file_size": Field("f.file_size", "int", "size in bytes"),
    "file_type": Field("f.file_type", "text", "kind of file: detector, mc ..."),
    "file_format": Field("f.file_format", "text", "format of the file: root, hdf5 ..."),
    "data_tier": Field("f.data_tier", "text", "processing level: raw ..."),
    "data_stream": Field("f.data_stream", "text", "data stream"),
    "group": Field("f.group_name", "text", "working group"),
    "content_status": Field("f.content_status", "text", "good or bad"),
    "event_count": Field("f.event_count", "int", "number of events"),
    "first_event": Field("f.first_event", "int", "number of the first event"),
    "last_event": Field("f.last_event", "int", "number of the last event"),
    "file_partition": Field("f.file_partition", "int", "partition number"),
    "process_id": Field("f.process_id", "int", "consumer process that made the file"),
    "start_time": Field("f.start_time", "date", "start of data taking or processing"),
    "end_time": Field("f.end_time", "date", "end of data taking or processing"),
    "create_date": Field("f.create_date", "date", "when the file was declared"),
    "update_date": Field("f.update_date", "date", "when its metadata were last modified"),
    "retired_date": Field("f.retired_date", "date", "when the file was retired (with availability any)"),
    "user": Field("f.user_name", "text", "who declared the file"),
    "create_user": Field("f.user_name", "text", "who declared the file"),
    "update_user": Field("f.update_user", "text", "who last modified its metadata"),
    "family": Field("a.family", "text", "application family", "application"),
    "application": Field("a.name", "text", "application name", "application"),
    "appl_name": Field("a.name", "text", "application name", "application"),
    "version": Field("a.version", "text", "application version", "application"),
    "checksum": Field("k.checksum", "text", "one of its checksums, 'algorithm:value'", "checksum"),
    "run_number": Field("r.run", "run", "run, or run.subrun", "runs"),
    "subrun_number": Field("r.subrun", "int", "subrun", "runs"),
    "run_type": Field("r.run_type", "text", "kind of run", "runs"),
    "lum_block": Field("b.low", "block", "a luminosity block in one of its lum_block_ranges", "lum_blocks"),
    "full_path": Field("l.full_path", "path", "directory of a location, with or without its node", "locations"),
    "tape_label": Field("l.tape_label", "text", "label of the tape of a location", "locations"),
    "dataset_def_name": Field("defname", "definition", "files of the definition"),
    "dataset_def_id": Field("definition_id", "definition", "files of the definition"),
    "def_snapshot": Field("df.defname", "text", "files of any snapshot of the definition", "snapshots"),
    "dataset_def_name_newest_snapshot": Field(
        "df.defname", "newest", "files of the newest snapshot of the definition", "snapshots"),
    "snapshot_id": Field("sf.snapshot_id", "int", "files of the snapshot", "snapshots"),
    "snapshot_version": Field("s.version", "int", "1 for a definition's first snapshot", "snapshots"),
    "snapshot_file_number": Field("sf.number", "int", "place in the snapshot, from 1", "snapshots"),
    "snapshot_for_project_name": Field("p.project_name", "text", "files of the project's snapshot", "snapshots"),
    "snapshot_for_project_id": Field("p.project_id", "int", "files of the project's snapshot", "snapshots"),
    "project_name": Field("p.project_name", "text", "files the project delivered", "deliveries"),
    "project_id": Field("p.project_id", "int", "files the project delivered", "deliveries"),
    "project_description": Field("p.description", "text", "files projects of this description delivered", "deliveries"),
    "consumed_status": Field("d.status", "text", "status of a delivery; unconsumed: not handed out yet", "deliveries"),
    "consumer_process_id": Field("d.process_id", "int", "files delivered to the process", "deliveries"),
    "consumer": Field("c.username", "text", "files delivered to processes of this user", "deliveries"),
    "consumer_process_description": Field(
        "c.description", "text", "files delivered to processes of this description", "deliveries"),
}
