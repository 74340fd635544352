"""What clients send and must get back, for every path of the server, in each client's own form of HTTP.

Read it as one conversation with a new catalog: exchanges build on those before. samweb: HTTP/1.1, asks for JSON always,
even where it reads text. ifdh: HTTP/1.0, no Accept, empty items as bare names, all but letters, digits and `_`
percent-encoded. poms and wget accept anything. The last test sees to it that no route lacks an exchange.
"""

import json
import re
import socket
import sqlite3
import time
from urllib.parse import quote

from sam_process import start_server, stop_server
from starlette.routing import compile_path

from keepupd.samserver.server import ROUTES

BASE = "/sam/exp/api"
SAMWEB = ("HTTP/1.1\r\nHost: sam.example.org:8480\r\nAccept: application/json\r\nFrom: u1@wn1.example.org\r\n"
          "User-Agent: SAMWebClient/2.2 (samweb) python/2.7.5\r\nAccept-Encoding: identity\r\nConnection: close\r\n")
HEADERS = {
    "samweb": SAMWEB + "SAM-Role: default\r\n",
    "samweb*": SAMWEB + "Sam-Role: *\r\n",                  # its urllib2 back-end, on writes
    "samweb tz": SAMWEB + "SAM-Role: default\r\nTimezone: America/Chicago\r\n",
    "samweb no zone": SAMWEB + "SAM-Role: default\r\nTimezone: Mars/Olympus\r\n",
    "ifdh": "HTTP/1.0\r\nHost: sam.example.org:8480\r\nFrom: u1@wn1.example.org\r\n"
            "User-Agent: WebAPI/2.6/Experiment/exp\r\nAuthorization: Bearer eyJ0.not.read\r\n",
    "poms": "HTTP/1.1\r\nHost: sam.example.org:8480\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
            "Connection: close\r\n",
}


class Like:
    """Equal to every value whose text matches."""

    __hash__ = None

    def __init__(self, pattern):
        self.pattern = pattern

    def __eq__(self, other):
        return re.fullmatch(self.pattern, str(other), re.DOTALL) is not None

    def __repr__(self):
        return f"Like({self.pattern!r})"


class Has:
    """Equal to every object with these items, to every list with these members."""

    __hash__ = None

    def __init__(self, items):
        self.items = items

    def __eq__(self, other):
        if isinstance(self.items, dict):
            return all(k in other and v == other[k] for k, v in self.items.items())
        return all(any(one == x for x in other) for one in self.items)

    def __repr__(self):
        return f"Has({self.items!r})"


def refused(kind, words=".*"):
    return {"error": kind, "message": Like(words)}


TIME = Like(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
FILE = {"file_name": "x_r12.root", "file_type": "detector", "file_format": "artroot", "file_size": 1024,
        "checksum": ["enstore:1713616759"], "data_tier": "raw", "runs": [[12, "test"]], "Offline.tag": "S1",
        "application": {"family": "art", "name": "daq", "version": "v1"}, "end_time": "2024-05-06T07:08:09+00:00"}
CHILD = {"file_name": "y-r12.root", "create_date": "2024-01-02T03:04:05:+00:00", "user": "exppro", "file_size": "2048",
         "crc": {"crc_value": "77", "crc_type": "adler 32 crc type"}, "file_type": "unknown", "file_format": "unknown",
         "content_status": "good", "parents": [{"file_name": "x_r12.root"}]}
DISK = {"mount_point": "n1.example.org:/exp/data", "node": "n1.example.org", "dir": "/exp/data", "disk_type": "disk",
        "url_prefixes": []}
TAPE = {"full_path": "enstore:/pnfs/exp/raw/00", "location": "enstore:/pnfs/exp/raw/00(602@vpe776)",
        "location_type": "tape"}
ON_DISK = {"full_path": "n1.example.org:/exp/data/r", "location": "n1.example.org:/exp/data/r", "location_type": "disk"}

# who, request, body (text: a form; else JSON), status, reply (text: exactly so; else JSON)
VALUES = [
    ("samweb", "GET ", None, 200, Like("SAMWeb API for exp\nSAMWeb version: .*\nUser information:\n  Username: u1\n"
                                       "  Roles: .*\n")),
    ("poms", "GET /", None, 200, Like("SAMWeb API for exp\n.*")),
    ("samweb*", "POST /values/data_disks", "mountpoint=n1.example.org%3A%2Fexp%2Fdata", 200, "ok"),
    ("samweb*", "POST /values/data_disks", "mountpoint=n1.example.org%3A%2Fexp%2Fdata", 409,
     refused("ValueExists", "Disk for node 'n1.example.org', directory '/exp/data' already exists")),
    ("poms", "POST /values/data_disks", "mountpoint=enstore:/pnfs&url_prefix=root://door.example.org:1094/", 200, "ok"),
    ("samweb", "GET /values/data_disks", None, 200, Has([DISK])),
    ("poms", "GET /values/data_disks", None, 200, "enstore:/pnfs\nn1.example.org:/exp/data\n"),
    ("samweb*", "POST /values/parameters", "name=Offline.tag&data_type=string", 200, "ok"),
    ("samweb*", "POST /values/parameters", "name=tag&data_type=string&category=Offline", 409,
     refused("ValueExists", "Parameter Offline.tag already exists")),
    ("samweb", "GET /values/parameters", None, 200, [{"name": "Offline.tag", "data_type": "string"}]),
    ("poms", "GET /values/parameters", None, 200, "Offline.tag (string)\n"),
    ("samweb", "GET /values/parameters/No.such?format=json", None, 404, refused("NotFound")),
    ("samweb*", "POST /values/applications", "family=art&name=daq&version=v1", 200, "ok"),
    ("samweb", "GET /values/applications?family=art", None, 200, [{"family": "art", "name": "daq", "version": "v1"}]),
    ("samweb", "GET /values?list=generic", None, 200, Has({"data_tiers": Has({"description": Like(".+")})})),
    ("samweb*", "POST /values/data_tiers", "value=tier-1&value=tier-2", 200, "ok"),
    ("samweb", "GET /values/data_tiers", None, 200, Has(["raw", "tier-1", "tier-2"])),
    ("samweb", "GET /values/colours", None, 404, refused("NotFound")),
    ("samweb*", "POST /users", {"username": "u1", "grid_subjects": ["/DC=org/CN=u1"]}, 201, "ok"),
    ("samweb", "GET /users", None, 200, ["u1"]),
    ("poms", "GET /users", None, 200, "u1\n"),
    ("samweb*", "POST /users/name/u1", {"status": "inactive"}, 200, "ok"),
    ("samweb*", "PUT /users/name/u1", "status=active&x", 200, "ok"),
    ("samweb", "GET /users/name/u1", None, 200, Has({"username": "u1", "status": "active"})),
    ("samweb", "GET /users/name/u1?format=plain", None, 200, Like(r" *username: u1\n.*")),
    ("samweb", "GET /users/name/u2", None, 404, refused("NotFound")),
]
FILES = [
    ("samweb", "POST /files/validate_metadata", {"file_name": "v", "file_type": "nonphysicsgeneric", "file_size": 1,
                                                 "data_tier": "raw"}, 200, "ok"),
    ("samweb", "POST /files/validate_metadata", {"file_name": "v"}, 400,
     refused("InvalidMetadata", "Missing field 'file_type'\nMissing field 'file_size'")),
    ("samweb", "POST /files", {**FILE, "No.such": 1}, 400, refused("InvalidMetadata", "Unknown .*'No.such'")),
    ("samweb", "POST /files", {**FILE, "checksum": ["md5:12"]}, 400,
     refused("InvalidMetadata", "checksum md5: value is wrong length.*")),
    ("samweb", "POST /files", FILE, 201, "1"),
    ("samweb", "POST /files", FILE, 409, refused("FileAlreadyExists", ".*already exists.*")),
    ("ifdh", "POST /files", CHILD, 201, "2"),
    ("samweb", "POST /files", [{**FILE, "file_name": f"z{n}.root"} for n in range(2)], 201, "3\n4"),
    ("samweb", "GET /files/name/foo/metadata?format=plain", None, 404, refused("FileNotFound", "File 'foo' not found")),
    ("ifdh", "GET /files/name/x_r12%2eroot/metadata", None, 200, Like(
        "     File Name: x_r12.root\n       File Id: 1\n   Create Date: .{25}\n          User: u1\n"
        "     File Size: 1024\n      Checksum: enstore:1713616759\nContent Status: good\n     File Type: detector\n"
        "   File Format: artroot\n     Data Tier: raw\n   Application: art daq v1\n"
        "      End Time: 2024-05-06T07:08:09\\+00:00\n   Offline.tag: S1\n          Runs: 12 \\(test\\)\n")),
    ("samweb", "GET /files/name/x_r12.root/metadata?format=plain", None, 200, Like(" +File Name: x_r12.root\n.*")),
    ("samweb", "GET /files/name/x_r12.root/metadata?format=json", None, 200, {
        **FILE, "file_id": 1, "create_date": TIME, "user": "u1", "content_status": "good"}),
    ("samweb", "GET /files/id/2/metadata?locations=True", None, 200, Has({
        "file_size": 2048, "checksum": ["enstore:77"], "parents": [{"file_name": "x_r12.root", "file_id": 1}],
        "user": "exppro", "create_date": TIME, "locations": []})),
    ("samweb tz", "GET /files/name/x_r12.root/metadata", None, 200, Has({"end_time": "2024-05-06T02:08:09-05:00"})),
    ("samweb tz", "GET /files/id/1/metadata?format=plain", None, 200, Like(".*2024-05-06T02:08:09-05:00.*")),
    ("samweb no zone", "GET /files/id/1/metadata", None, 200, Has({"end_time": "2024-05-06T07:08:09+00:00"})),
    ("samweb", "POST /files/metadata", "file_name=x_r12.root&file_name=none&file_id=2&basic=1&locations", 200, [
        Has({"file_id": 1}), Has({"file_id": 2})]),
    ("samweb", "GET /files/name/x_r12.root/locations", None, 200, []),
    ("ifdh", "GET /files/name/x_r12%2eroot/locations", None, 200, ""),
    ("samweb*", "POST /files/name/x_r12.root/locations", "add=nowhere%3A%2Fexp", 404,
     refused("LocationNotFound", "Location.*not found.*")),
    ("samweb*", "POST /files/name/x_r12.root/locations", "add=" + quote(TAPE["location"], safe=""), 200, "ok"),
    ("ifdh", "POST /files/name/x_r12%2eroot/locations", "add=n1%2eexample%2eorg%3a%2fexp%2fdata%2fr", 200, "ok"),
    ("samweb*", "POST /files/name/y-r12.root/locations", "add=n1.example.org%3A%2Fexp%2Fdata%2Fr", 200, "ok"),
    ("samweb", "GET /files/name/x_r12.root/locations", None, 200, [TAPE, ON_DISK]),
    ("ifdh", "GET /files/name/x_r12%2eroot/locations", None, 200,
     "enstore:/pnfs/exp/raw/00(602@vpe776)\nn1.example.org:/exp/data/r\n"),
    ("samweb", "GET /files/name/none/locations", None, 404, refused("FileNotFound")),
    ("samweb", "GET /files/locations?file_name=x_r12.root&file_id=2&file_id=99", None, 200, {
        "x_r12.root": [TAPE, ON_DISK], "2": [ON_DISK]}),
    ("ifdh", "POST /files/locations", "file_name=y-r12.root&file_name=none&format=json", 200, {
        "y-r12.root": [ON_DISK]}),
    ("samweb", "GET /files/name/x_r12.root/locations/url?schema=root", None, 200, [
        "root://door.example.org:1094//pnfs/exp/raw/00/x_r12.root"]),
    ("ifdh", "GET /files/name/x_r12%2eroot/locations/url", None, 200,
     "file:///exp/data/r/x_r12.root\nroot://door.example.org:1094//pnfs/exp/raw/00/x_r12.root\n"),
    ("samweb", "GET /files/name/x_r12.root/lineage/children", None, 200, [{"file_name": "y-r12.root", "file_id": 2}]),
    ("samweb", "GET /files/id/2/lineage/parents", None, 200, [{"file_name": "x_r12.root", "file_id": 1}]),
    ("ifdh", "GET /files/name/y%2dr12%2eroot/lineage/rawancestors", None, 200, "x_r12.root\n"),
    ("samweb*", "PUT /files/name/x_r12.root/metadata", {"event_count": 5}, 200, "ok"),
    ("ifdh", "POST /files/name/y%2dr12%2eroot/metadata", {"event_count": 4}, 200, "ok"),
    ("samweb*", "PUT /files?continue_on_error=False", [{"file_name": "y-r12.root", "event_count": None}], 200, [
        {"file_name": "y-r12.root", "status": "ok"}]),
    ("samweb*", "PUT /files/id/3/content_status", "content_status=bad", 200, "ok"),
    ("samweb*", "POST /files/id/3/content_status", "content_status=good", 200, "ok"),
    ("samweb*", "POST /files/id/3/retired_date", None, 200, "ok"),
    ("samweb*", "PUT /files/id/4/retired_date", None, 200, "ok"),
    ("samweb", "GET /files/id/3/metadata", None, 200, Has({"retired_date": TIME, "update_date": TIME})),
    ("samweb", "GET /values/parameters/Offline.tag?format=json", None, 200, ["S1"]),
]
DIMS = "run_number+12+and+data_tier+raw"
LISTS = [
    ("samweb", "GET /files/list/dimensions?format=json&descriptions=1", None, 200, Has([["file_name", Like(".+")]])),
    ("samweb", f"GET /files/list?dims={DIMS}&format=plain", None, 200, "x_r12.root\n"),
    ("samweb", "POST /files/list?format=plain", f"dims={DIMS}", 200, "x_r12.root\n"),
    ("ifdh", "GET /files/list?dims=run_number%2012", None, 200, "x_r12.root\n"),
    ("ifdh", "GET /files/list?dims=file_id%200", None, 200, ""),
    ("poms", f"GET /files/list?dims={DIMS}&format=json", None, 200, ["x_r12.root"]),
    ("samweb", "GET /files/list?dims=file_name+%25r12.root&format=plain&fileinfo=1", None, 200,
     "x_r12.root\t1\t1024\t5\ny-r12.root\t2\t2048\t0\n"),
    ("poms", "GET /files/list?dims=file_id+1&format=json&fileinfo=1", None, 200, [
        {"file_name": "x_r12.root", "file_id": 1, "file_size": 1024, "event_count": 5}]),
    ("samweb", f"GET /files/list?dims={DIMS}&parse_only=1", None, 200, Like(".*run_number.*\n")),
    ("samweb", f"GET /files/list?dims={DIMS}&diagnostics=1", None, 200, Like("SELECT .*\n")),
    ("samweb", f"GET /files/count?dims={DIMS}", None, 200, "1"),
    ("poms", "POST /files/count", f"dims={DIMS}", 200, "1"),
    ("poms", "GET /files/count?dims=defname:+none", None, 400, refused("DimensionError", ".*none.*")),
    ("samweb", "GET /files/count?dims=run_number+12+and", None, 400, refused("DimensionError", ".*line 1, column.*")),
    ("samweb", f"GET /files/summary?dims={DIMS}", None, 200,
     {"file_count": 1, "total_file_size": 1024, "total_event_count": 5}),
    ("poms", "POST /files/summary", "dims=file_id+0", 200,
     {"file_count": 0, "total_file_size": None, "total_event_count": None}),
    ("samweb", f"GET /files/expand_query?dims={DIMS}", None, 200, {"query": Like("run_number.*")}),
    ("samweb", "POST /files/expand_query", f"dims={DIMS}", 200, {"query": Like("run_number.*")}),
    ("samweb", "POST /files/list/locations?format=plain", "dims=file_name+%25r12.root&checksums=True", 200,
     "enstore:/pnfs/exp/raw/00\tx_r12.root\t1024\tenstore:1713616759\n"
     "n1.example.org:/exp/data/r\tx_r12.root\t1024\tenstore:1713616759\n"
     "n1.example.org:/exp/data/r\ty-r12.root\t2048\tenstore:77\n"),
    ("samweb", "POST /files/list/locations?format=plain", "defname=&dims=file_id+1&schema=root&schema=https", 200,
     "root://door.example.org:1094//pnfs/exp/raw/00/x_r12.root\tx_r12.root\t1024\n"),
    ("poms", f"GET /files/list/locations?dims={DIMS}&filter_path=enstore:&filter_path=other:", None, 200,
     "enstore:/pnfs/exp/raw/00\tx_r12.root\t1024\n"),
]
D = "/definitions/name/u1_run12"
DEFINITIONS = [
    ("samweb", "POST /definitions/create", f"dims={DIMS}&defname=u1_run12&group=exp", 200,
     {"defname": "u1_run12", "defid": 1}),
    ("samweb", "POST /definitions/create", f"dims={DIMS}&defname=u1_run12&group=exp", 409, refused("DefinitionExists")),
    ("ifdh", "POST /createDefinition", "name=u1%5fold&dims=file%5fname%20%25r12%2eroot&user=u1&group=exp", 200,
     {"defname": "u1_old", "defid": 2}),
    ("samweb", "GET /definitions/list?format=plain&defname=u1%25&user&group=exp", None, 200, "u1_run12\nu1_old\n"),
    ("samweb", f"GET {D}/describe?format=plain", None, 200, Like(
        " *Definition Name: u1_run12\n.* Dimensions: run_number 12 and data_tier raw\n")),
    ("samweb", f"GET {D}/describe", None, 200, Has({
        "defname": "u1_run12", "dimensions": "run_number 12 and data_tier raw", "create_time": TIME})),
    ("samweb tz", f"GET {D}/describe", None, 200, Has({"create_time": Like(r".*-0[56]:00")})),
    ("ifdh", "GET /definitions/name/u1%5frun12", None, 200, Like(" *Definition Name: u1_run12\n.*")),
    ("poms", "GET /definitions/name/none", None, 404, refused("DefinitionNotFound")),
    ("samweb", f"POST {D}/snapshot?format=plain", "group=exp", 200, "1"),
    ("poms", f"POST {D}/snapshot", "group=exp", 200, "1"),
    ("ifdh", "GET /definitions/name/u1%5frun12/snapshot", None, 200, "1"),
    *((who, f"{verb} {D}/files/{what}?format=plain", None, 200, reply)
      for verb, who in (("GET", "samweb"), ("POST", "poms"))
      for what, reply in (("list", "x_r12.root\n"), ("count", "1"), ("summary", Has({"file_count": 1})))),
    ("samweb*", f"PUT {D}", "defname=u1_renamed&description=words", 200, "ok"),
    ("samweb*", "PUT /definitions/name/u1_renamed", "defname=u1_run12", 200, "ok"),
    ("samweb", f"DELETE {D}?", None, 409, refused("DefinitionInUse", ".*can't be deleted.*")),
    ("samweb", "POST /definitions/create", "dims=file_id+0&defname=u1_brief&group=exp", 200, Has({"defid": 3})),
    ("samweb", "DELETE /definitions/name/u1_brief?", None, 200, "ok"),
    ("ifdh", "POST /definitions/name/u1%5fbrief/delete", None, 404, refused("DefinitionNotFound")),
]
NAME = "u1_run12_20240506070809"
P, BY_NAME = f"/projects/exp/{NAME}", f"/projects/name/{NAME}"
URL = f"http://sam.example.org:8480{BASE}{P}"
X, ROOT_URL = f"{P}/process/1", "root://door.example.org:1094//pnfs/exp/raw/00/x_r12.root"
BY_SAMWEB = [
    ("samweb", "GET /findProject?name=none&station=exp", None, 404, refused("ProjectNotFound")),
    ("samweb", "POST /startProject", f"name={NAME}&station=exp&group=exp&defname=u1_run12", 200, URL),
    ("samweb", "POST /startProject", f"name={NAME}&station=exp&group=exp&defname=u1_run12%3Aforce", 200, URL),
    ("samweb", f"GET /findProject?name={NAME}&station=exp", None, 200, URL),
    ("samweb", "GET /projects?format=plain&name=u1_%25&defname=%25&started_after=2024-05-06T07:08:09", None, 200,
     f"{NAME}\n"),
    ("poms", f"POST {P}/description", "description=first+pass", 200, "ok"),
    ("samweb", f"POST {P}/establishProcess", "appname=reco&appversion=v1&node=wn1.example.org&username=u1&appfamily=art"
     "&filelimit=5&description=123.0%40js&schemas=root%2Chttps", 200, "1"),
    ("samweb", f"POST {X}/getNextFile", None, 200, f"{ROOT_URL}\nx_r12.root"),
    ("samweb", f"POST {X}/updateFileStatus", "filename=x_r12.root&status=transferred", 200, "ok"),
    ("samweb", f"POST {X}/updateFileStatus", "filename=x_r12.root&status=eaten", 400, refused("BadRequest")),
    ("samweb", f"POST {X}/releaseFile", f"filename={quote(ROOT_URL, safe='')}&status=ok", 200, "ok"),
    ("samweb", f"POST {X}/getNextFile", None, 204, ""),
    ("samweb", f"GET {BY_NAME}/summary?format=json&process_limit=0", None, 200, {
        "project_name": NAME, "project_id": 1, "project_status": "running", "dataset_def_name": "u1_run12",
        "files_in_snapshot": 1, "snapshot_id": 1, "station": "exp", "group": "exp", "username": "u1",
        "description": "first pass", "project_start_time": TIME, "process_counts": Has({"active": 1, "completed": 0}),
        "file_counts": Has({"consumed": 1, "completed": 0, "delivered": 0, "skipped": 0, "failed": 0, "cancelled": 0,
                            "unknown": 0, "unconsumed": 0})}),
    ("samweb", f"GET {BY_NAME}/recovery_dimensions?format=plain&useFiles=1&useProcess=1", None, 200, Like(
        ".*consumed_status consumed.*")),
    ("samweb", f"GET {BY_NAME}/recovery_dimensions?format=plain", None, 200, ""),
    ("samweb", f"PUT {X}/status", "status=completed", 200, "ok"),
    ("samweb", f"PUT {BY_NAME}/processes/1/status", "status=completed", 200, "ok"),
    ("samweb", f"PUT {BY_NAME}/process_description/123.0%40js/status", "status=bad", 200, "ok"),
    ("poms", f"POST {BY_NAME}/process_description/123.0%40js/status", "status=completed", 200, "ok"),
    ("poms", f"POST {X}/status", "status=ok", 200, "ok"),
    ("poms", f"POST {X}/setStatus", "status=ok", 200, "ok"),
    ("poms", f"PUT {X}/setStatus", "status=ok", 200, "ok"),
    ("samweb", f"POST {X}/endProcess", None, 200, "ok"),
    ("samweb", f"POST {P}/endProject", "force=1", 200, "ok"),
    ("samweb", f"POST {P}/endProject", "force=1", 200, "ok"),
    ("samweb", f"GET /findProject?name={NAME}", None, 200, URL),
    ("samweb", f"GET {P}/summary?format=plain", None, 200, Like(".*Project status: ended complete\n.*")),
    ("poms", f"GET {BY_NAME}/summary?format=json", None, 200, Has({
        "project_status": "ended complete", "project_end_time": TIME, "processes": [Has({
            "process_id": 1, "status": "completed", "counts": Has({"consumed": 1, "cancelled": 0, "failed": 0})})]})),
    ("samweb tz", f"GET {BY_NAME}/summary?format=json", None, 200, Has({
        "project_end_time": Like(r".*-0[56]:00"), "processes": [Has({"end_time": Like(r".*-0[56]:00")})]})),
]
Q, Y = "/projects/exp/u1_ifdh", "/projects/exp/u1_ifdh/processes/2"
BY_IFDH = [
    ("ifdh", "POST /startProject", "name=u1%5fifdh&station=exp&defname=u1%5fold&username=u1&group=exp", 200,
     f"http://sam.example.org:8480{BASE}{Q}"),
    ("ifdh", "GET /findProject?name=u1%5fifdh&station", None, 200, f"http://sam.example.org:8480{BASE}{Q}"),
    ("ifdh", f"POST {Q}/establishProcess", "appname=reco&appversion=v1&deliverylocation=wn1%2eexample%2eorg&username=u1"
     "&appfamily=art&description=7%2e0&filelimit=0&schemas", 200, "2"),
    ("ifdh", f"POST {Y}/getNextFile", None, 200, "file:///exp/data/r/x_r12.root"),
    ("ifdh", f"POST {Y}/getNextFile", None, 200, "file:///exp/data/r/x_r12.root"),     # until it is released
    ("ifdh", f"POST {Y}/updateFileStatus", "filename=x%5fr12%2eroot&status=transferred", 200, "ok"),
    ("ifdh", f"POST {Y}/updateFileStatus", "filename=x%5fr12%2eroot&status=consumed", 200, "ok"),
    ("ifdh", f"POST {Y}/getNextFile", None, 200, "file:///exp/data/r/y-r12.root"),
    ("ifdh", f"POST {Y}/releaseFile", "filename=y%2dr12%2eroot&status=bad", 200, "ok"),
    ("ifdh", f"POST {Y}/getNextFile", None, 204, ""),
    ("ifdh", "GET /dumpStation?station=exp&dump", None, 200, Like(
        r".*u1_ifdh.* contains 2 total files: .*of these 2 in cache\n.*Per-project prefetched files: \d+\n")),
    ("poms", "GET /dumpStation", None, 200, Like(r"(.*\n)?u1_ifdh( \S+){5,}\n.*")),
    ("ifdh", f"POST {Y}/setStatus", "status=completed", 200, "ok"),
    *(("ifdh", f"{verb} {Y}/{word}", "status=completed", 200, "ok") for verb, word in (
        ("PUT", "setStatus"), ("PUT", "status"), ("POST", "status"))),
    ("ifdh", f"POST {Y}/endProcess", None, 200, "ok"),
    ("ifdh", f"GET {Q}/recovery_dimensions", None, 200, Like("snapshot_id .*consumed_status consumed.*")),
    ("ifdh", f"POST {Q}/endProject", None, 200, "ok"),
    ("ifdh", f"POST {Q}/endProject", None, 200, "ok"),
    ("ifdh", f"GET {Q}/status", None, 200, "ended complete"),
    ("ifdh", f"GET {Q}/summary?format=json", None, 200, Has({"file_counts": Has({"consumed": 1, "skipped": 1})})),
    ("ifdh", f"POST {Y}/getNextFile", None, 409, refused("ProjectEnded")),
    ("ifdh", "GET /no/such/path", None, 404, refused("HTTPNotFound")),
    ("ifdh", "PATCH /files", None, 405, refused("HTTPMethodNotAllowed")),
]
CONVERSATION = [*VALUES, *FILES, *LISTS, *DEFINITIONS, *BY_SAMWEB, *BY_IFDH]


def exchange(port, who, request, body):
    """Send one request byte by byte as that client does; returns status, headers and body of the reply."""
    method, _, path = request.partition(" ")
    data, head = "", f"{method} {BASE}{path} {HEADERS[who]}"
    if body is not None:
        data = body if isinstance(body, str) else json.dumps(body)
        head += f"Content-Type: application/{'x-www-form-urlencoded' if data is body else 'json'}\r\n"
    if method in ("POST", "PUT", "PATCH"):
        head += f"Content-Length: {len(data)}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"{head}\r\n{data}".encode())
        reply = b""
        while piece := connection.recv(65536):
            reply += piece
    top, _, text = reply.decode().partition("\r\n\r\n")
    status, *lines = top.split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), text


def test_every_client_gets_every_reply_in_the_form_it_reads(tmp_path, new_server):
    server = start_server(tmp_path / "catalog.db", "--experiment", "exp")
    try:
        for who, request, body, status, reply in CONVERSATION:
            got, headers, text = exchange(server.port, who, request, body)
            as_json = not isinstance(reply, str | Like)
            seen = json.loads(text) if as_json and text else text
            assert (got, seen) == (status, reply), (who, request, body)
            kind = "application/json" if as_json else "text/plain; charset=utf-8"
            assert headers["Content-Type"] == kind, (who, request)
            assert headers["Connection"] == "close" and "Transfer-Encoding" not in headers
            assert headers.get("Content-Length", "0") == str(len(text.encode()))
            assert all(n == n.title() and value and len(n + value) < 1000 for n, value in headers.items()), headers
            if who == "ifdh" and "locations" in request and as_json:
                assert '"location": ' not in text       # ifdh picks `"location":` followed by the value
    finally:
        stop_server(server)


def test_fields_of_metadata_come_in_the_order_of_the_real_service(sam):
    name = sam.new("ordered")
    sam.declare(name, data_tier="raw", event_count=1, runs=[[1, "test"]], **{"Test.label": "a"})
    record = sam.get(f"/files/name/{name}/metadata", format="json").json
    assert list(record) == ["file_name", "file_id", "create_date", "user", "file_size", "content_status", "file_type",
                            "data_tier", "event_count", "Test.label", "runs"]


def test_no_route_lacks_an_exchange():
    asked = [request.partition("?")[0].partition(" ") for _, request, *_ in CONVERSATION]
    lacking = [(verb, path) for verbs, path, _ in ROUTES for verb in verbs.split()
               if not any(method == verb and compile_path(path)[0].match(target) for method, _, target in asked)]
    assert lacking == []


def test_projects_and_processes_of_which_nothing_is_heard_are_ended(tmp_path):
    server = start_server(tmp_path / "catalog.db", "--idle-hours", "0.01")        # 36 s; it looks each 0.7 s
    try:
        server.define("d1", "file_id 0")
        silent, lively, only_started = (server.path_of(server.post("/startProject", name=name, defname="d1").text)
                                        for name in ("silent", "lively", "only_started"))
        processes = [server.establish(project) for project in (silent, lively, lively)]
        db = sqlite3.connect(server.db)
        db.executescript("UPDATE projects SET start_time = start_time - 60;"
                         "UPDATE processes SET start_time = start_time - 60 WHERE process_id < 3")
        db.close()
        deadline = time.monotonic() + 20
        while server.get(f"{silent}/status").text == "running" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.get(f"{only_started}/status").text.startswith("ended")
        told = {project: server.get(f"{project}/summary", format="json").json for project in (silent, lively)}
        assert "project_end_time" in told[silent] and told[lively]["project_status"] == "running"
        assert [p["status"] for p in told[silent]["processes"]] == ["bad"]
        assert [p["status"] for p in told[lively]["processes"]] == ["bad", "active"]
        assert server.post(f"{processes[0]}/getNextFile").error == "ProjectEnded"
        assert server.post(f"{silent}/endProject").status == 200
        assert server.post(f"{processes[0]}/setStatus", status="completed").status == 200     # a late job
    finally:
        stop_server(server)
