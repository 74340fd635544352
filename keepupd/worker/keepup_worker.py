#!/usr/bin/env python3
"""keepup_worker.py - runs in the batch job: take one unit from SAM, run the executable on it, validate, copy, declare.

Read it from the bottom: main() makes a Job, Job.run() takes the seven steps in order, and each step is one method of
Job that bears the step's name. Above Job stand its tools: SAM over HTTP, copying, the ROOT file check, the executable.
Each step writes a line to stdout when it starts and one when it ends; report.json says the same to a program, and the
exit code says which step failed (EXIT_CODES; docs/worker.md has the table). Python 3.6 to 3.13, standard library only.
"""
import argparse
import errno
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from urllib.parse import quote, unquote, unquote_to_bytes, urlencode, urlsplit

STEPS = ("establish", "fetch", "execute", "validate", "copy", "declare", "finish")
EXIT_CODES = {"ok": 0, "order": 2, "no_file": 10, "establish": 11, "fetch": 12, "execute": 13, "validate": 14,
              "copy": 15, "declare": 16, "finish": 17, "signal": 18}                # 1 is Python's own
FAULTS = {"fetch": ("absent", "incomplete", "differs", "unreachable", "not_staged", "no_space", "sam_unavailable",
                    "sam_refused"),
          "copy": ("unreachable", "no_space", "differs", "refused")}    # any other trouble there is "unreachable"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)
LIMITS = {"executable_wall_s": None, "fetch_patience_s": 600, "stage_patience_s": 3600, "copy_patience_s": 600}
LOG_HEAD, LOG_TAIL = 1 << 20, 4 << 20   # bytes kept of what a command prints; the middle is dropped
CHUNK = 1 << 20
KILL_GRACE_S = 3        # between TERM and KILL: batch systems give a job that must leave few seconds in all
LEAVE_PATIENCE_S = 5    # to tell SAM of a failure: the report matters more than the process's last word
XROOTD_TIMEOUTS = {"XRD_CONNECTIONWINDOW": "30", "XRD_CONNECTIONRETRY": "2", "XRD_REQUESTTIMEOUT": "120",
                   "XRD_STREAMTIMEOUT": "60"}       # xrdcp's own defaults wait for many minutes
SLOWEST_COPY = 1000000  # bytes a second; a copy that is slower is given up
TOOL_FAULTS = (         # what a copy tool's words mean, xrdcp's error numbers among them; else it is "unreachable".
    ("absent", r"\[3011\]|no such file"),              # its exit status 54 says no more than: the server said no
    ("no_space", r"\[3009\]|\[3021\]|no space left|quota"),
    ("refused", r"\[3010\]|\[3025\]|\[3030\]|permission denied|not authorized|auth failed|read-only"),
    ("differs", r"checksum error"))
WEB_FAULTS = {404: "absent", 410: "absent", 401: "refused", 403: "refused", 413: "no_space", 507: "no_space"}
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,149}\Z")
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")    # RFC 6750, 2.1
PLACEHOLDER = re.compile(r"\{([a-z_]+)(?::([A-Za-z0-9_.-]+))?\}")
UNIT_PARAMS = ("run", "subrun", "seed", "events", "serial")
PLACEHOLDERS = UNIT_PARAMS + ("input", "inputs", "input_list", "output", "metadata", "unit", "scratch", "campaign")
EVENT_FIELDS = ("event_count", "first_event", "last_event", "runs", "start_time", "end_time", "lum_block_ranges")


class Failure(Exception):
    """A step failed: `fault` is its machine word, `step` the step when it is not the one that runs."""
    def __init__(self, fault, message, step=None):
        Exception.__init__(self, message)
        self.fault, self.message, self.step = fault, message, step


class NoFile(Exception):
    """The project has ended or has no file left for us. Not a failure."""


class Ended(BaseException):
    """A signal asks us to leave. No Exception, so that no retry takes it for a trouble of its own."""
    def __init__(self, number):
        BaseException.__init__(self, number)
        self.name = signal.Signals(number).name


class SamRefused(Exception):
    """SAM answered, and said no (HTTP 4xx): asking again is no use."""
    def __init__(self, status, error, message):
        Exception.__init__(self, "SAM refused: HTTP %d %s: %s" % (status, error, message))
        self.status, self.error, self.message = status, error, message


class SamUnavailable(Exception):
    """SAM gave no answer, or none that makes sense, until our patience ended."""


# ---- words and numbers -------------------------------------------------------------------------------------------

def log(text):
    """Write one line to stdout. Never fails: a full disk or a closed pipe must not end the job."""
    line = time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()) + clean(text) + "\n"
    try:
        os.write(1, line.encode("utf-8", "replace"))
    except OSError:
        pass


def clean(text):
    """`text` as one harmless line: no terminal escapes, no control characters, no more than 2000 characters."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", str(text))
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)[:2000]


def utc():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def back_off():
    """Pauses between tries in seconds: 0.5, 1, 2 ... 60, up to twice as long, so that jobs do not march in step."""
    pause = 0.5
    while True:
        yield pause * (1 + os.urandom(1)[0] / 255.0)
        pause = min(2 * pause, 60.0)


def local_name(name, number):
    """A file name that is safe on this node, whatever the catalog's name is (`../x`, a newline, 300 characters)."""
    return name if PLAIN_NAME.match(name) else "file-%d%s" % (number, ".root" if name.endswith(".root") else "")


def digests(path, algorithms=("adler32", "enstore")):
    """Size in bytes and checksums of a file, written as SAM writes them.

    enstore is the adler32 of the same bytes with initial value 0, in decimal; unknown algorithms are left out.
    """
    known = [a for a in algorithms if a in ("md5", "sha1", "sha256", "sha512")]
    if known:
        import hashlib
    hashes, one, zero, size = {a: getattr(hashlib, a)() for a in known}, 1, 0, 0
    with open(path, "rb") as stream:
        for data in iter(lambda: stream.read(CHUNK), b""):
            size, one, zero = size + len(data), zlib.adler32(data, one), zlib.adler32(data, zero)
            for digest in hashes.values():
                digest.update(data)
    found = {a: h.hexdigest() for a, h in hashes.items()}
    found.update(adler32="%08x" % (one & 0xffffffff), enstore="%d" % (zero & 0xffffffff))
    return size, {a: found[a] for a in algorithms if a in found}


def checksums_of(record):
    """{algorithm: value} from a SAM record, in one spelling: hexadecimal lower case, adler32 with its leading zeros."""
    listed, found = record.get("checksum") or [], {}
    for item in [listed] if isinstance(listed, str) else listed:
        algorithm, _, value = str(item).partition(":")
        algorithm, value = algorithm.strip().lower(), value.strip().lower()
        found[algorithm] = value.zfill(8) if algorithm == "adler32" else value.lstrip("0") or "0" \
            if algorithm == "enstore" else value
    if not found and record.get("crc"):
        found["enstore"] = str(record["crc"]["crc_value"]).lstrip("0") or "0"
    return found


def differences(record, size, found):
    """Say in words how a file (size in bytes, digests) differs from its SAM record; an empty list when it does not."""
    said, wanted = [], checksums_of(record)
    if record.get("file_size") is not None and int(record["file_size"]) != size:
        said.append("size %s in the catalog, %d here" % (record["file_size"], size))
    return said + ["%s %s in the catalog, %s here" % (a, wanted[a], found[a])
                   for a in sorted(found) if a in wanted and wanted[a] != found[a]]


# ---- SAM ---------------------------------------------------------------------------------------------------------

class Reply(object):
    def __init__(self, response, body):
        self.status, self.headers = response.status, response.headers
        self.text = body.decode("utf-8", "replace").strip()

    def json(self):
        return json.loads(self.text)

    def refusal(self):
        """The typed error SAM sends as JSON, or the bare text of something in between."""
        try:
            said = self.json()
            return SamRefused(self.status, str(said["error"]), str(said["message"]))
        except (ValueError, KeyError, TypeError):
            return SamRefused(self.status, "", self.text[:500])


class Sam(object):
    """SAM over HTTP, one kept-alive connection a server. Every call we make may be repeated without harm."""
    def __init__(self, settings):
        self.settings, self.connections = settings, {}
        self.timeout_s = settings.get("timeout_s") or 60
        self.patience_s = settings.get("patience_s", 600)
        self.headers = {"Accept": "application/json", "User-Agent": "keepup_worker/1",
                        "From": "%s@%s" % (settings.get("user", ""), os.uname()[1])}

    def ask(self, method, url, form=None, record=None, role="default", parse=None, patience_s=None):
        """Ask until SAM answers, and return the Reply, or what `parse` makes of it.

        Raises SamRefused (4xx), or SamUnavailable after `patience_s` seconds without an answer that makes sense.
        """
        deadline = time.monotonic() + (self.patience_s if patience_s is None else patience_s)
        for usual_pause in back_off():
            reused, pause = urlsplit(url)[:2] in self.connections, usual_pause
            try:
                reply = self.once(method, url, form, record, role)
                if reply.status < 300 and not reply.text.startswith("<"):   # SAM sends no HTML: a proxy's page
                    return parse(reply) if parse else reply
                trouble = "HTTP %d %s" % (reply.status, clean(reply.text[:200]))
                pause = max(pause, seconds_to_wait(reply, 0))
                if 300 <= reply.status < 500 and reply.status not in (408, 429):    # these two mean: later
                    raise reply.refusal()
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                trouble = clean("%s: %s" % (type(error).__name__, error))
                if reused and isinstance(error, ConnectionError):
                    continue            # the server closed a connection that had been idle: a new one, at once
            if time.monotonic() + pause > deadline:
                raise SamUnavailable("SAM does not answer %s %s: %s" % (method, url, trouble))
            log("SAM: %s; asking again in %.0f s" % (trouble, pause))
            time.sleep(pause)
        return None                         # not reached: back_off() has no end

    def once(self, method, url, form, record, role):
        """One request and its reply, in `timeout_s` at the most, however slowly the bytes drip in."""
        headers, body = dict(self.headers, **{"SAM-Role": role}), b""
        if record is not None:
            headers["Content-Type"], body = "application/json", json.dumps(record).encode("ascii")
        elif form is not None:
            headers["Content-Type"], body = "application/x-www-form-urlencoded", urlencode(form).encode("ascii")
        parts = urlsplit(url)
        if parts.scheme == "https":
            headers.update(authorization())
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s)
        try:
            connection = self.connection(parts)
            connection.request(method, parts.path + ("?" + parts.query if parts.query else ""), body, headers)
            response = connection.getresponse()
            return Reply(response, response.read())
        except BaseException:
            self.close(url)                 # half a conversation: the next one needs a new connection
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def connection(self, parts):
        server = parts[:2]
        if server not in self.connections:
            kind = http.client.HTTPConnection
            options = {"timeout": self.timeout_s}
            if parts.scheme == "https":
                kind, options["context"] = http.client.HTTPSConnection, tls_context()
            self.connections[server] = kind(parts.netloc, **options)
        return self.connections[server]

    def close(self, url):
        connection = self.connections.pop(urlsplit(url)[:2], None)
        if connection:
            connection.close()

    def find_project(self, name):
        query = urlencode({"name": name, "station": self.settings["station"]})
        return self.ask("GET", self.settings["read_url"] + "/findProject?" + query, parse=an_url)

    def records(self, name):
        """The file's metadata with its locations: a list of one, or empty when SAM has no such file."""
        return self.ask("POST", self.settings["read_url"] + "/files/metadata", {"file_name": name, "locations": 1},
                        parse=a_list_of_records)

    def declare(self, record):
        self.ask("POST", self.settings["write_url"] + "/files", record=record, role="*")

    def add_location(self, name, location):
        url = "%s/files/name/%s/locations" % (self.settings["write_url"], quote(name, safe=""))
        self.ask("POST", url, {"add": location}, role="*")


def an_url(reply):
    if not re.match(r"https?://\S+\Z", reply.text):
        raise ValueError("expected a URL, got %r" % reply.text[:200])
    return reply.text


def a_list_of_records(reply):
    records = reply.json()
    if not isinstance(records, list) or not all(r.get("file_name") for r in records):
        raise ValueError("expected a list of file records, got %r" % reply.text[:200])
    return records


def seconds_to_wait(reply, default):
    """Seconds of the Retry-After header, at most 300."""
    try:
        return min(max(float(reply.headers.get("Retry-After", default)), 0), 300)
    except ValueError:
        return default


def authorization():
    """The bearer token as a header, for https alone: in the clear it would be anybody's. Read anew for each request."""
    folders = (os.environ.get("XDG_RUNTIME_DIR") or "/run/user/%d" % os.getuid(), "/tmp")
    for place in [os.environ.get("BEARER_TOKEN_FILE", "")] + ["%s/bt_u%d" % (f, os.getuid()) for f in folders]:
        if os.path.isfile(place):
            with open(place, "rb") as stream:
                token = stream.read().decode("ascii", "replace").strip()
            if not TOKEN.match(token):      # http.client would quote it in its error, and so in our log
                raise OSError("%s holds no bearer token" % place)
            return {"Authorization": "Bearer " + token}
    return {}


def tls_context():
    """Verify the server; show the grid proxy where there is one. `X509_CERT_DIR` adds the grid's authorities."""
    import ssl
    context = ssl.create_default_context()
    if os.environ.get("X509_CERT_DIR"):
        context.load_verify_locations(capath=os.environ["X509_CERT_DIR"])
    proxy, usual = os.environ.get("X509_USER_PROXY"), "/tmp/x509up_u%d" % os.getuid()
    cert, key = proxy or os.environ.get("X509_USER_CERT"), proxy or os.environ.get("X509_USER_KEY")
    if not (cert and key) and os.path.isfile(usual) and not authorization():    # nobody named it: a token comes first
        cert, key = usual, usual
    if cert and key:
        try:
            context.load_cert_chain(cert, key, password="")     # "": never ask for one on a terminal
        except OSError as error:
            raise OSError("the grid certificate %s can't be used: %s" % (cert, error)) from None
    return context


# ---- copying -----------------------------------------------------------------------------------------------------

def persistently(action, patience_s):
    """Do it until it succeeds: again while the other side is away or staging, once more when bytes differ."""
    deadline, second = time.monotonic() + patience_s, False
    for pause in back_off():
        try:
            return action()
        except Failure as failure:
            again = failure.fault in ("unreachable", "not_staged") or (failure.fault == "differs" and not second)
            if not again or time.monotonic() + pause > deadline:
                raise
            second = failure.fault == "differs"
            log("%s; again in %.0f s" % (failure.message, pause))
            time.sleep(pause)
    return None                             # not reached


def copy_time_s(patience_s, size):
    """Seconds that one copy of so many bytes may take, however patient we are with a storage that is away."""
    return max(patience_s, 10) + int(size or 0) // SLOWEST_COPY


def disk_failure(error, what):
    """The Failure an OSError of the file system means."""
    faults = {errno.ENOSPC: "no_space", errno.EDQUOT: "no_space", errno.EACCES: "refused", errno.EPERM: "refused",
              errno.EROFS: "refused"}
    return Failure(faults.get(error.errno, "unreachable"), "%s: %s" % (what, error.strerror or error))


def run_tool(argv, timeout_s):
    """Run a copy tool; raise the Failure its exit status and words mean. Returns what it printed."""
    environment = dict(XROOTD_TIMEOUTS, IFDH_CP_MAXRETRIES="1")
    environment.update(os.environ)
    words = [word.encode("utf-8", "surrogateescape") for word in argv]  # an old Python in the C locale can't
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=environment, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise Failure("unreachable", "%s did not end within %d s" % (argv[0], timeout_s)) from None
    except OSError as error:
        raise Failure("unreachable", "%s cannot be run on this node: %s" % (argv[0], error.strerror)) from error
    text = clean(done.stdout.decode("utf-8", "replace"))[-500:]
    if done.returncode == 0:
        return text
    fault = next((fault for fault, pattern in TOOL_FAULTS if re.search(pattern, text.lower())), "unreachable")
    raise Failure(fault, "%s ended with %d: %s" % (argv[0], done.returncode, text))


def fetch_file(url, path, timeout_s):
    """Copy `url` to the local `path`, by ifdh where the node has it, else by the URL's scheme. Raises Failure."""
    scheme = urlsplit(url).scheme
    if shutil.which("ifdh"):
        run_tool(["ifdh", "cp", url, path], timeout_s)
    elif scheme in ("root", "xroot", "xrootd"):
        fetch_xrootd(url, path, timeout_s)
    elif scheme in ("http", "https"):
        fetch_http(url, path, timeout_s)
    elif scheme == "file":
        fetch_local(unquote_to_bytes(urlsplit(url).path), path, url)
    else:
        raise Failure("unreachable", "no way on this node to copy from %s" % url)


def fetch_local(source, path, url):
    """Copy on this file system. `source` is bytes, since an old Python in the C locale has no word for some names."""
    if not os.path.isfile(source):
        gone = os.path.isdir(os.path.dirname(source))       # else the whole file system may be away
        raise Failure("absent" if gone else "unreachable", "%s: %s" % (
            url, "no such file" if gone else "not even its directory is there"))
    try:
        copy_bytes(source, path)
    except OSError as error:
        raise disk_failure(error, url) from error


def copy_bytes(source, path, lasting=False):
    """Copy a file; a lasting copy is on disk when this returns, since some file systems say only then they are full."""
    with open(source, "rb") as stream, open(path, "wb") as copy:
        for data in iter(lambda: stream.read(CHUNK), b""):
            copy.write(data)
        copy.flush()
        if lasting:
            os.fsync(copy.fileno())


def xrootd_parts(url):
    """Server and path of a root: URL; xrdcp and xrdfs know no %XX."""
    parts = urlsplit(url)
    return "root://" + parts.netloc, "/" + unquote(parts.path, errors="surrogateescape").lstrip("/")


def fetch_xrootd(url, path, timeout_s):
    """By xrdcp. Raises Failure: not_staged where the server has the file on tape alone, which asking sets going."""
    host, there = xrootd_parts(url)
    try:
        run_tool(["xrdcp", "-f", "--nopbar", "%s/%s" % (host, there), path], timeout_s)
    except Failure as failure:
        if failure.fault == "unreachable" and "Offline" in whatever(run_tool, ["xrdfs", host, "stat", there], 60):
            raise Failure("not_staged", "%s is still on tape: %s" % (url, failure.message)) from failure
        raise


def whatever(action, *arguments):
    """What it returns, or an empty text when it fails: for a question whose answer we can do without."""
    try:
        return action(*arguments)
    except Failure:
        return ""


def ask_web(method, url, timeout_s, headers=None, body=None):
    """One HTTP request, redirections followed; returns the open reply. Raises Failure.

    The token goes to the first server alone: a door may send us elsewhere, and names in the URL what we may do there.
    """
    import urllib.request

    class Redirections(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request, stream, code, message, said, new_url):
            if body:
                body.seek(0)
            return urllib.request.Request(new_url, body, request.headers, method=method)

    request = urllib.request.Request(url, body, headers or {}, method=method)
    handlers = [Redirections]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=tls_context()))
        for name, value in authorization().items():
            request.add_unredirected_header(name, value)
    try:
        return urllib.request.build_opener(*handlers).open(request, timeout=min(60, timeout_s))
    except urllib.request.HTTPError as error:
        fault = WEB_FAULTS.get(error.code, "unreachable")
        raise Failure(fault, "%s %s: HTTP %d %s" % (method, url, error.code, error.reason)) from error
    except http.client.HTTPException as error:
        raise Failure("unreachable", "%s %s: %s" % (method, url, type(error).__name__)) from error
    except OSError as error:
        raise disk_failure(error, "%s %s" % (method, url)) from error


def fetch_http(url, path, timeout_s):
    deadline = time.monotonic() + timeout_s
    try:
        with ask_web("GET", url, timeout_s) as reply, open(path, "wb") as copy:
            for data in iter(lambda: reply.read(CHUNK), b""):
                copy.write(data)
                if time.monotonic() > deadline:
                    raise Failure("unreachable", "%s: not copied within %d s" % (url, timeout_s))
    except http.client.HTTPException as error:
        raise Failure("unreachable", "%s: %s" % (url, type(error).__name__)) from error
    except OSError as error:
        raise disk_failure(error, url) from error


class LocalStore(object):
    """Where outputs go when the URL is file:. Paths are bytes, as in fetch_local."""
    def __init__(self, directory_url):
        self.url, self.directory = directory_url, unquote_to_bytes(urlsplit(directory_url).path)

    def make(self):
        """Make our directory and the launch's, none above: where those are missing, a file system is not mounted."""
        for directory in (os.path.dirname(self.directory), self.directory):
            try:
                os.mkdir(directory)
            except FileExistsError:
                pass
            except OSError as error:
                raise disk_failure(error, "making " + self.url) from error

    def put(self, path, name, size, sums):
        """Copy in under a temporary name, read back and compare, then give the final name."""
        final = os.path.join(self.directory, name.encode("utf-8", "surrogateescape"))
        part = os.path.join(self.directory, b".part")
        try:
            copy_bytes(path, part, lasting=True)
            there = digests(part)
            if there != (size, sums):
                raise Failure("differs", "%s: copied %d bytes %s, read back %d bytes %s" % (
                    self.url, size, sums, there[0], there[1]))
            os.rename(part, final)
        except OSError as error:
            raise disk_failure(error, self.url) from error

    def remove(self, name):
        """Take our copy away again, and the directory when it is empty."""
        for leftover in (b".part", name.encode("utf-8", "surrogateescape")):
            try:
                os.unlink(os.path.join(self.directory, leftover))
            except FileNotFoundError:
                pass
        for directory in (self.directory, os.path.dirname(self.directory)):
            try:
                os.rmdir(directory)
            except OSError:
                return                      # another output is in there


class XrootdStore(object):
    """Where outputs go when the URL is root:. Source: xrdcp(1), xrdfs(1); docs/xrootd.md."""
    def __init__(self, directory_url, timeout_s):
        self.url, self.timeout_s = directory_url, timeout_s
        self.host, self.path = xrootd_parts(directory_url)

    def make(self):
        pass                                # xrdcp makes it

    def put(self, path, name, size, sums):
        """Copy in under a temporary name, have the server read it and say its checksum, then give the final name."""
        part, final = self.path + "/.part", self.path + "/" + name
        run_tool(["xrdcp", "-f", "--nopbar", "--posc", "--cksum", "adler32:source", path,
                  "%s/%s" % (self.host, part)], self.timeout_s)
        said = self.ask("query", "checksum", part).split()
        if said[:1] != ["adler32"] or int((said + ["0"])[1], 16) != int(sums["adler32"], 16):   # numbers: zeros vary
            raise Failure("differs", "%s: adler32 %s here, the server says %s" % (
                self.url, sums["adler32"], " ".join(said)))
        self.ask("mv", part, final)

    def ask(self, *words):
        return run_tool(["xrdfs", self.host] + list(words), self.timeout_s)

    def remove(self, name):
        """Take our copy away again, and the directories when they are empty. Raises Failure when a copy may be left."""
        for leftover in (".part", name):
            try:
                self.ask("rm", self.path + "/" + leftover)
            except Failure as failure:
                if failure.fault != "absent":
                    raise
        for directory in (self.path, os.path.dirname(self.path)):
            whatever(self.ask, "rmdir", directory)


class HttpStore(object):
    """Where outputs go when the URL is http: or https:, by WebDAV. Source: RFC 4918 (MKCOL, MOVE), 3230 (Digest)."""
    def __init__(self, directory_url, timeout_s):
        self.url, self.timeout_s = directory_url, timeout_s

    def make(self):
        """Make the launch's directory and ours. That one is there already is said in several ways: PUT will tell."""
        for directory in (self.url.rpartition("/")[0], self.url):
            try:
                self.ask("MKCOL", directory + "/")
            except Failure as failure:
                if failure.fault != "unreachable":
                    raise
                log("making %s: %s" % (directory, failure.message))

    def put(self, path, name, size, sums):
        """Copy in under a temporary name, compare, then give the final name."""
        part = self.url + "/.part"
        with open(path, "rb") as stream:
            self.ask("PUT", part, {"Content-Length": str(size), "Content-Type": "application/octet-stream"}, stream)
        there = self.checksum(part, path + ".back")
        if int(there, 16) != int(sums["adler32"], 16):
            raise Failure("differs", "%s: adler32 %s here, %s there" % (self.url, sums["adler32"], there))
        self.ask("MOVE", part, {"Destination": self.url + "/" + quote(name), "Overwrite": "T"})

    def checksum(self, url, scratch):
        """The copy's adler32 as the server says it; where it says none, from reading the copy back."""
        said = re.search(r"adler32=([0-9a-f]+)", self.ask("HEAD", url, {"Want-Digest": "adler32"}).get("Digest", ""))
        if said:
            return said.group(1)
        try:
            fetch_http(url, scratch, self.timeout_s)
            return digests(scratch)[1]["adler32"]
        finally:
            if os.path.exists(scratch):
                os.unlink(scratch)

    def ask(self, method, url, headers=None, body=None):
        """The headers of the reply, which must have come within `timeout_s`."""
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s)
        try:
            with ask_web(method, url, self.timeout_s, headers, body) as reply:
                return reply.headers
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def remove(self, name):
        """Take our copy away again. The directory stays: to DELETE it would be to delete all that is in it."""
        for leftover in (".part", quote(name)):
            try:
                self.ask("DELETE", self.url + "/" + leftover)
            except Failure as failure:
                if failure.fault != "absent":
                    raise


def store_at(directory_url, timeout_s):
    scheme = urlsplit(directory_url).scheme
    if scheme == "file":
        return LocalStore(directory_url)
    if scheme in ("root", "xroot", "xrootd"):
        return XrootdStore(directory_url, timeout_s)
    if scheme in ("http", "https"):
        return HttpStore(directory_url, timeout_s)
    raise Failure("refused", "outputs cannot be written to %s: use a file:, root: or https: URL" % directory_url)


# ---- the whole-ROOT-file check -----------------------------------------------------------------------------------

def root_trouble(path):
    """Why `path` is no whole, closed ROOT file with something in it: (fault, words), or None when it is one.

    Source: ROOT's format notes, "header", "tfile" and "keyslist" (root.cern, io/doc/TFile).
    """
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        if stream.read(4) != b"root":
            return "not_root", "it does not begin with 'root'"
        try:
            return root_structure_trouble(stream, size)
        except (struct.error, ValueError, OSError):
            return "truncated_root", "%d bytes, and its structure points outside of them" % size


def root_structure_trouble(stream, size):
    def at(offset, layout):
        stream.seek(offset)
        return struct.unpack(layout, stream.read(struct.calcsize(layout)))

    version, begin = at(4, ">ii")
    big = version >= 1000000                # 64-bit pointers in files above 2 GB
    end, free, free_bytes, _, name_bytes, _, _, info, info_bytes = at(12, ">qqiiiBiqi" if big else ">iiiiiBiii")
    if end != size:
        return "truncated_root", "its header says it ends at byte %d, and it has %d bytes" % (end, size)
    for what, start, length in (("list of free space", free, free_bytes), ("list of classes", info, info_bytes)):
        if start < begin or length <= 0 or start + length > end:
            return "truncated_root", "its %s was not written: it was not closed" % what
    directory = begin + name_bytes
    wide = at(directory, ">h")[0] > 1000
    here, _, keys = at(directory + 18, ">qqq" if wide else ">iii")
    if here != begin or not begin < keys < end:
        return "truncated_root", "its list of objects was not written: it was not closed"
    if at(keys + at(keys + 14, ">h")[0], ">i")[0] < 1:
        return "empty", "it is a whole ROOT file with no object in it"
    return None


# ---- the executable ----------------------------------------------------------------------------------------------

class CappedLog(object):
    """A log of any length on bounded disk: its first 1 MiB, then its last 4 MiB as a ring, put in order at the end."""
    def __init__(self, path):
        self.size, self.file = 0, open(path, "w+b", buffering=0)        # noqa: SIM115

    def write(self, data):
        while data:
            ring = max(self.size - LOG_HEAD, 0) % LOG_TAIL
            room = LOG_HEAD - self.size if self.size < LOG_HEAD else LOG_TAIL - ring
            try:
                self.file.seek(min(self.size, LOG_HEAD) + ring)
                self.file.write(data[:room])
            except OSError:
                pass                        # a full disk must not block the executable
            self.size += len(data[:room])
            data = data[room:]

    def close(self):
        """Put the ring in order, with a note where the middle is missing."""
        dropped = self.size - LOG_HEAD - LOG_TAIL
        try:
            if dropped > 0:
                self.file.seek(LOG_HEAD)
                ring, start = self.file.read(LOG_TAIL), (self.size - LOG_HEAD) % LOG_TAIL
                self.file.seek(LOG_HEAD)
                self.file.write(b"\n[keepup_worker: %d bytes left out here]\n" % dropped + ring[start:] + ring[:start])
        except OSError:
            pass
        self.file.close()


def last_lines(path, count=40):
    """The last lines of a log, cleaned for a terminal and for JSON."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(os.path.getsize(path) - 64 * 1024, 0))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [clean(line)[:500] for line in lines if line.strip()][-count:]


def stray_processes(mark):
    """Ids of processes whose environment carries this job start's mark (from /proc; none where there is no /proc)."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open("/proc/%s/environ" % entry, "rb") as stream:
                if mark in stream.read():
                    found.append(int(entry))
        except OSError:
            continue                        # ended meanwhile, or somebody else's
    return found


def kill_quietly(kill, number, which):
    try:
        kill(number, which)
    except OSError:
        pass


def end_all(process, mark):
    """End the process group, TERM then KILL, and then whoever left it: no child outlives the executable."""
    if process.poll() is None:
        kill_quietly(os.killpg, process.pid, signal.SIGTERM)
        try:
            process.wait(KILL_GRACE_S)
        except subprocess.TimeoutExpired:
            log("no reaction to TERM in %d s: KILL" % KILL_GRACE_S)
    kill_quietly(os.killpg, process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(10):                     # one that forks while we look is found the next time
        strays = stray_processes(mark)
        for number in strays:
            kill_quietly(os.kill, number, signal.SIGKILL)
        if not strays:
            return


def follow(process, output, wall_s):
    """Copy what the process prints until it ends. False when it still runs after `wall_s` seconds."""
    deadline = time.monotonic() + (wall_s or 10 * 365 * 86400)
    pipe = process.stdout.fileno()
    while process.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if pipe is None:                    # it closed its output and goes on
            try:
                process.wait(min(left, 60))
            except subprocess.TimeoutExpired:
                pass
        elif select.select([pipe], [], [], min(left, 0.2))[0]:
            data = os.read(pipe, CHUNK)
            output.write(data)
            pipe = pipe if data else None
    return True


def run_command(argv, environment, wall_s, log_path):
    """Run in a process group of its own. Returns (exit status, False when it passed `wall_s`). Raises OSError."""
    mark = "KEEPUP_START=" + os.urandom(8).hex()
    full = dict(os.environb)
    for name, value in list(environment.items()) + [mark.split("=")]:
        full[name.encode("utf-8")] = value.encode("utf-8", "surrogateescape")
    output = CappedLog(log_path)
    try:
        process = subprocess.Popen([a.encode("utf-8", "surrogateescape") for a in argv], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=full, start_new_session=True)
        try:
            in_time = follow(process, output, wall_s)
        finally:
            end_all(process, mark.encode("ascii"))
            drain(process.stdout.fileno(), output)
            process.stdout.close()
    finally:
        output.close()
    return process.returncode, in_time


def drain(pipe, output):
    """Take what is still in the pipe; all writers are gone, so this ends."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and select.select([pipe], [], [], 0)[0]:
        data = os.read(pipe, CHUNK)
        if not data:
            return
        output.write(data)


def find_program(name):
    """The program as it can be started: in the scratch directory first (sent along with the job), then on PATH."""
    if os.path.dirname(name) or not os.path.isfile(name):
        return name
    return os.path.join(os.getcwd(), name)


# ---- the job -----------------------------------------------------------------------------------------------------

def check_order(order):
    """Refuse a bad order before it can take a file from SAM. Raises Failure."""
    def bad(message):
        raise Failure("bad_order", message, "order")

    try:
        if order["version"] != 1:
            bad("the order's version is %r, this worker knows 1: daemon and worker differ" % order["version"])
        labels = [output["label"] for output in order["outputs"]]
        texts = [order["argv"]] if order.get("shell") else list(order["argv"])
        texts += [text for output in order["outputs"] for text in output.get("checks", {}).get("command") or []]
        needed = [order["campaign"], order["launch"], order["type"]] + list(order["units"])
        needed += [output[name] for output in order["outputs"] for name in ("location", "url")]
        needed += [order["sam"][name] for name in ("read_url", "write_url", "station")] if order.get("sam") else []
        if not all(isinstance(text, str) for text in needed + texts):
            bad("the order has something else where it should have text: %r" % (needed + texts))
    except (KeyError, TypeError, AttributeError) as error:
        bad("the order lacks something, or has it in another shape: %r" % error)
    if order["type"] == "merge" and [bool(unit.get("inputs")) for unit in order["units"].values()] != [True]:
        bad("a merge order has exactly one unit, with the names of its inputs, this one has %r" % order["units"])
    if not texts or not labels or len(set(labels)) != len(labels) or not all(map(PLAIN_NAME.match, labels)):
        bad("the order needs a command, and outputs with plain labels that differ: %r, %r" % (texts, labels))
    for name, label in (match for text in texts for match in PLACEHOLDER.findall(text)):
        if name not in PLACEHOLDERS or (label and (name not in ("output", "metadata") or label not in labels)):
            bad("the command has an unknown placeholder {%s}; there are %s; output labels are %s" % (
                name + (":" + label if label else ""), " ".join("{%s}" % p for p in PLACEHOLDERS), " ".join(labels)))


class Job(object):
    """One start of one job. `report` is what report.json will hold; it is kept up to date all along."""
    def __init__(self, key, scratch):
        self.key, self.scratch, self.start = key, scratch, os.urandom(3).hex()
        self.work = os.path.join(scratch, "keepup-work-" + self.start)      # inputs and outputs: ours to remove
        self.order, self.sam, self.process_url, self.held_file = {}, None, None, None
        self.unit, self.records, self.skips = {}, [], ()
        self.report = {
            "version": 1, "key": key, "campaign": None, "launch": None, "unit": None, "process_id": None,
            "host": os.uname()[1], "python": "%d.%d.%d" % sys.version_info[:3], "started": utc(), "ended": None,
            "exit_code": None, "step": "order", "fault": None, "message": None, "inputs": [], "steps": [],
            "executable": None, "outputs": []}

    def run(self, order):
        """Take the steps, in order. Raises what ended them early."""
        check_order(order)
        self.order = order
        self.limits = dict(LIMITS, **(order.get("limits") or {}))
        self.report.update(campaign=order["campaign"], launch=order["launch"])
        if order.get("sam"):
            self.sam = Sam(order["sam"])
        os.makedirs(os.path.join(self.work, "in"))
        if not order.get("project"):
            self.skips = ("establish", "fetch", "finish") if self.sam else ("establish", "declare", "finish")
            self.take_unit(self.key.rpartition(".")[2])
        for number, name in enumerate(STEPS, 1):
            if name not in self.skips:
                self.step(number, name)

    def step(self, number, name):
        """One step: its two lines in the log, its entry in the report."""
        entry, begun = {"number": number, "name": name, "seconds": None, "outcome": "running"}, time.monotonic()
        self.report["steps"].append(entry)
        self.report["step"] = name
        log("%d %s: started" % (number, name))
        said = ""
        try:
            said = getattr(self, name)()
            entry["outcome"] = "warned" if said.startswith("warned") else "ok"
        except BaseException as error:
            entry["outcome"] = "no_file" if isinstance(error, NoFile) else "failed"
            said = type(error).__name__ if isinstance(error, Ended) else str(error)
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - begun, 3)
            log("%d %s: %s in %.2f s: %s" % (number, name, entry["outcome"], entry["seconds"], said))

    def take_unit(self, unit_key):
        """Know which unit this job makes, and where its outputs will be. Raises Failure for an order that lacks it."""
        self.unit = self.order["units"].get(unit_key)
        if self.unit is None:
            raise Failure("bad_order", "the order has no unit for %r" % unit_key, "order")
        self.report["unit"] = self.unit.get("unit")
        for number, spec in enumerate(self.order["outputs"], 1):
            name = self.unit.get("outputs", {}).get(spec["label"])
            if not name or "/" in name or "\0" in name or name in (".", ".."):
                raise Failure("bad_order", "the unit's output name for %r is no file name: %r" % (
                    spec["label"], name), "order")
            self.report["outputs"].append({
                "label": spec["label"], "name": name, "size": None, "checksum": [], "location": None, "url": None,
                "metadata": {}, "state": None})
            os.makedirs(os.path.join(self.work, "out", str(number)))

    def outputs(self):
        """Each output's entry in the report with its lines in the order."""
        return [(entry, self.order["outputs"][index]) for index, entry in enumerate(self.report["outputs"])]

    def local_output(self, index):
        """Its final name, where that is a safe one, in a directory of its own."""
        name = self.report["outputs"][index]["name"]
        return os.path.join(self.work, "out", str(index + 1), local_name(name, index + 1))

    def local_metadata(self, index):
        return os.path.join(self.work, "out", "metadata-%d.json" % (index + 1))

    def local_inputs(self):
        return [entry["path"] for entry in self.records]

    # -- 1 establish

    def establish(self):
        """Join the project as a consumer process and ask for the first file."""
        application = self.order.get("application") or {}
        merge = self.order["type"] == "merge"
        form = {"appfamily": application.get("family", ""), "appname": application.get("name", ""),
                "appversion": application.get("version", ""), "node": os.uname()[1], "description": self.key,
                "username": self.order["sam"].get("user", ""), "filelimit": 0 if merge else 1,
                "schemas": self.order.get("schemas") or "file,root,https"}
        try:
            project_url = self.sam.find_project(self.order["project"])
            number = self.sam.ask("POST", project_url + "/establishProcess", form, parse=lambda r: int(r.text))
        except SamRefused as refused:
            raise (NoFile(str(refused)) if project_is_over(refused) else refused) from None
        self.report["process_id"] = number
        self.process_url = "%s/process/%d" % (project_url, number)
        if merge:
            self.take_unit(next(iter(self.order["units"])))
        if not self.next_file():
            raise NoFile("the project has no file left for process %d" % number)
        return "process %d, %s" % (number, self.held_file)

    def next_file(self):
        """Ask for the next file, waiting while it is staged. False when there is none.

        Safe to repeat: a process that holds a file is given the same one again. Raises Failure not_staged.
        """
        deadline = time.monotonic() + self.limits["stage_patience_s"]
        while True:
            try:
                reply = self.sam.ask("POST", self.process_url + "/getNextFile", parse=Delivery)
            except SamRefused as refused:
                raise (NoFile(str(refused)) if project_is_over(refused) else refused) from None
            if reply.status == 204:
                return False
            if reply.status != 202:
                self.held_file, self.file_url = self.name_of(reply.names), reply.url
                return True
            pause = seconds_to_wait(reply, 10) or 10
            if time.monotonic() + pause > deadline:
                raise Failure("not_staged", "SAM was still staging the file after %d s" % (
                    self.limits["stage_patience_s"]), "fetch")
            log("SAM is staging the file; asking again in %.0f s" % pause)
            time.sleep(pause)

    def name_of(self, names):
        """The file's name among its spellings: the one the order knows (a URL may quote it), else the first."""
        known = self.unit.get("inputs") or self.order["units"]
        return next((name for name in names if name in known), names[0])

    # -- 2 fetch

    def fetch(self):
        """Copy the input to the node and compare it with the catalog; a merge takes all files of the project."""
        if not self.sam:
            return self.use_local_files()
        self.fetch_one()
        while self.order["type"] == "merge":
            self.tell_file("consumed")
            self.held_file = None
            if not self.next_file():
                break
            self.fetch_one()
        self.check_members()
        return "%d file(s), %d bytes" % (len(self.records), sum(e["size"] for e in self.report["inputs"]))

    def check_members(self):
        """A merge takes all files of its group and no other: SAM passes over one that has lost its location."""
        if self.order["type"] != "merge":
            return
        wanted, given = self.unit["inputs"], [entry["file_name"] for entry in self.records]
        lacking, strange = [n for n in wanted if n not in given], [n for n in given if n not in wanted]
        if lacking or strange:
            raise Failure("incomplete", "SAM delivered %d of the group's %d files%s%s" % (
                len(wanted) - len(lacking), len(wanted), "; without " + some_of(lacking) if lacking else "",
                "; and %s, not of the group" % some_of(strange) if strange else ""))

    def use_local_files(self):
        """By hand: the files are where they are. They are read, never removed."""
        for path in self.order["inputs"]:
            if not os.path.isfile(path):
                raise Failure("absent", "%s: no such file" % path)
            size, sums = digests(path)
            self.report["inputs"].append({"name": os.path.basename(path), "file_id": None, "url": path, "size": size,
                                          "checksum": ["%s:%s" % item for item in sorted(sums.items())]})
            self.records.append({"path": os.path.abspath(path), "file_name": os.path.basename(path)})
        return "%d file(s)" % len(self.records)

    def fetch_one(self):
        name, url, number = self.held_file, self.file_url, len(self.records) + 1
        if self.order["type"] != "merge":
            self.take_unit(name)
        found = self.sam.records(name)
        if not found:
            raise Failure("absent", "SAM delivered %s and has no metadata for it" % name)
        entry = {"name": name, "file_id": found[0].get("file_id"), "url": url, "size": None, "checksum": []}
        self.report["inputs"].append(entry)
        path = os.path.join(self.work, "in", local_name(name, number))

        def copy_and_compare():
            fetch_file(url, path, copy_time_s(self.limits["fetch_patience_s"], found[0].get("file_size")))
            size, sums = digests(path, sorted(checksums_of(found[0])) or ("adler32",))
            entry.update(size=size, checksum=["%s:%s" % item for item in sorted(sums.items())])
            different = differences(found[0], size, sums)
            if different:
                raise Failure("differs", "%s is not what the catalog says: %s" % (url, "; ".join(different)))

        persistently(copy_and_compare, self.limits["fetch_patience_s"])
        self.records.append(dict(found[0], path=path))
        if self.order["type"] != "merge":       # there `consumed` follows at once
            self.tell_file("transferred")

    def tell_file(self, status, patience_s=LEAVE_PATIENCE_S):
        """Tell SAM of the file in hand. Nothing of ours depends on it, so no answer is only logged."""
        return self.tell("POST", "/updateFileStatus", {"filename": self.held_file, "status": status}, patience_s)

    def tell(self, method, path, form, patience_s):
        try:
            self.sam.ask(method, self.process_url + path, form, patience_s=patience_s)
        except (SamRefused, SamUnavailable) as error:
            log("warning: %s" % error)
            return str(error)
        return ""

    # -- 3 execute

    def fill_in(self, text, quoted=lambda value: value):
        """`text` with its placeholders filled in. Raises Failure where the unit has no value for one."""
        def value_of(match):
            name, label = match.groups()
            if name == "inputs":
                return " ".join(map(quoted, self.local_inputs()))
            return quoted(str(self.value(name, label)))
        return PLACEHOLDER.sub(value_of, text)

    def value(self, name, label):
        labels = [output["label"] for output in self.report["outputs"]]
        index = labels.index(label or labels[0])
        values = dict(self.unit.get("params") or {}, unit=self.unit.get("unit"), campaign=self.order["campaign"],
                      scratch=self.scratch, input=next(iter(self.local_inputs()), None),
                      output=self.local_output(index), metadata=self.local_metadata(index))
        found = self.write_input_list() if name == "input_list" else values.get(name)
        if found is None:
            raise Failure("bad_order", "the command asks for {%s} and this unit has none" % name, "order")
        return found

    def write_input_list(self):
        path = os.path.join(self.work, "in", "input_list.txt")
        with open(path, "w") as stream:
            stream.writelines(name + "\n" for name in self.local_inputs())
        return path

    def arguments(self, texts):
        """The argument list; an argument that is {inputs} alone becomes one argument a file."""
        filled = []
        for text in texts:
            filled += self.local_inputs() if text == "{inputs}" else [self.fill_in(text)]
        return filled

    def command(self):
        if not self.order.get("shell"):
            argv = self.arguments(self.order["argv"])
            return [find_program(argv[0])] + argv[1:]
        import shlex
        return ["/bin/sh", "-c", self.fill_in(self.order["argv"], shlex.quote)]

    def environment(self):
        added = {name: str(value) for name, value in (self.order.get("environment") or {}).items()}
        added.update(KEEPUP_CAMPAIGN=self.order["campaign"], KEEPUP_JOB=self.key,
                     KEEPUP_UNIT=str(self.unit.get("unit") or ""), KEEPUP_INPUT_NAME=self.held_file or "")
        return added

    def execute(self):
        """Run the production executable, and no longer than it may."""
        import resource
        argv, log_path, begun = self.command(), os.path.join(self.scratch, "executable.log"), time.monotonic()
        said = {"argv": argv, "exit_code": None, "signal": None, "seconds": None, "peak_mib": None, "tail": []}
        self.report["executable"] = said
        wall_s = self.limits["executable_wall_s"]
        try:
            status, in_time = run_command(argv, self.environment(), wall_s, log_path)
        except (OSError, ValueError) as error:      # ValueError: a NUL in an argument
            number = getattr(error, "errno", None)
            raise Failure("missing" if number == errno.ENOENT else "no_space" if number == errno.ENOSPC
                          else "cannot_start", "%s cannot be started: %s" % (argv[0], error)) from error
        finally:
            peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss       # KiB on Linux
            said.update(seconds=round(time.monotonic() - begun, 3), peak_mib=round(peak_kib / 1024.0, 1),
                        tail=last_lines(log_path))
        said.update(exit_code=status if status >= 0 else None, signal=-status if status < 0 else None)
        last = "; its last line: %s" % said["tail"][-1] if said["tail"] else "; it printed nothing"
        if not in_time:
            raise Failure("hangs", "the executable was ended after %s s, its wall limit%s" % (wall_s, last))
        if status:
            how = "died of %s" % signal_name(-status) if status < 0 else "exited with %d" % status
            raise Failure(self.why_it_died(status, said["tail"]), "the executable %s after %.1f s%s" % (
                how, said["seconds"], last))
        return "exit code 0, peak memory %.0f MiB" % said["peak_mib"]

    def why_it_died(self, status, tail):
        room = os.statvfs(self.scratch)
        if room.f_bavail * room.f_frsize < CHUNK or any("No space left on device" in line for line in tail[-5:]):
            return "no_space"
        return "signal" if status < 0 else "exited"

    # -- 4 validate

    def validate(self):
        """Each output exists, is whole, and passes the campaign's own checks."""
        for index, output in enumerate(self.report["outputs"]):
            spec, path = self.order["outputs"][index], self.local_output(index)
            self.validate_file(path, output["name"], spec.get("checks") or {})
            made = self.read_metadata(self.local_metadata(index))
            if self.order["type"] == "merge" and index == 0:
                self.check_events(made, output["name"])
            least = (spec.get("checks") or {}).get("min_events")
            if least is not None and made.get("event_count") is None:
                raise Failure("bad_metadata", "%s needs %d events, and the executable wrote no event_count" % (
                    output["name"], least))
            if least is not None and made["event_count"] < least:
                raise Failure("too_few_events", "%s has %d events, at least %d are needed" % (
                    output["name"], made["event_count"], least))
            self.own_checks(spec, index, output["name"])
            size, sums = digests(path)
            output.update(size=size, checksum=["%s:%s" % item for item in sorted(sums.items())], state="made")
            output["metadata"] = self.metadata_of(output, spec, made)
        return "; ".join("%s, %d bytes" % (output["name"], output["size"]) for output in self.report["outputs"])

    def validate_file(self, path, name, checks):
        if not os.path.isfile(path):
            raise Failure("no_output", "the executable left no %s" % name)
        size, least = os.path.getsize(path), checks.get("min_bytes") or 1
        if size < least:
            raise Failure("empty", "%s has %d bytes, at least %d are needed" % (name, size, least))
        trouble = root_trouble(path) if checks.get("root", True) else None
        if trouble:
            raise Failure(trouble[0], "%s is no whole ROOT file: %s" % (name, trouble[1]))

    def read_metadata(self, path):
        """What the executable says of its output, {} when it wrote nothing. Fields not its to say are left out."""
        if not os.path.exists(path):
            return {}
        def no_number(text):
            raise ValueError("%s is no number SAM takes" % text)
        try:
            with open(path, encoding="utf-8") as stream:
                said = json.load(stream, parse_constant=no_number)
            for name in ("first_event", "last_event"):      # art writes [run, subrun, event]
                if isinstance(said.get(name), list):
                    said[name] = said[name][-1]
            for name in ("event_count", "first_event", "last_event"):
                if name in said and (type(said[name]) is not int or said[name] < 0):
                    raise ValueError("%s is %r" % (name, said[name]))
            runs = said.get("runs", [])
            if not isinstance(runs, list) or not all(isinstance(run, list) and 2 <= len(run) <= 3 for run in runs):
                raise ValueError("runs is %r, not a list of [run, subrun, type]" % (runs,))
        except (ValueError, AttributeError, OSError, IndexError) as error:
            raise Failure("bad_metadata", "the executable's metadata makes no sense: %s" % error) from error
        ignored = [name for name in said if name not in EVENT_FIELDS and "." not in name]
        if ignored:
            log("left out of the executable's metadata, not its to say: %s" % ", ".join(sorted(ignored)))
        return {name: value for name, value in said.items() if name not in ignored}

    def check_events(self, made, name):
        """Events in = events out, where SAM knows of each input how many it has; the first output is the merged one."""
        counts = [entry.get("event_count") for entry in self.records]
        if None in counts:
            log("events not compared: SAM knows no event_count of %d of %d inputs" % (counts.count(None), len(counts)))
        elif made.setdefault("event_count", sum(counts)) != sum(counts):
            raise Failure("events_differ", "%s has %d events, the inputs have %d: %s" % (
                name, made["event_count"], sum(counts),
                ", ".join("%s %d" % (entry["file_name"], entry["event_count"]) for entry in self.records)))

    def own_checks(self, spec, index, name):
        """The check of histograms that keepupd brings, and the campaign's own."""
        checks = spec.get("checks") or {}
        if checks.get("histograms"):
            self.check_histograms(checks["histograms"], spec, index, name)
        if checks.get("command"):
            self.own_check(checks["command"], spec, index, name)

    def check_histograms(self, names, spec, index, name):
        """By the python3 of the executable's environment; where that has no uproot, by the worker's own Python."""
        texts = ["{scratch}/check_histograms.py", "--names", ",".join(names), "{output}"]      # sent with the job
        try:
            self.own_check(["python3"] + texts, spec, index, name)
        except Failure as failure:
            if failure.fault != "check_missing":
                raise
            log(failure.message)
            self.own_check([sys.executable] + texts, spec, index, name)

    def own_check(self, texts, spec, index, name):
        bound = [PLACEHOLDER.sub(lambda m: m.group(0) if m.group(2) or m.group(1) not in ("output", "metadata")
                                 else "{%s:%s}" % (m.group(1), spec["label"]), text) for text in texts]
        argv, log_path = self.arguments(bound), os.path.join(self.work, "check.log")
        try:
            status, in_time = run_command([find_program(argv[0])] + argv[1:], self.environment(), 3600, log_path)
        except OSError as error:
            raise Failure("check_missing", "the check %s cannot be started: %s" % (argv[0], error)) from error
        if status in (126, 127):            # a shell's words for a program that is not there
            raise Failure("check_missing", "the check %s did not start: %s" % (
                argv[0], " | ".join(last_lines(log_path, 5))))
        if status or not in_time:
            raise Failure("check_failed", "%s did not pass the campaign's check (exit status %d): %s" % (
                name, status, " | ".join(last_lines(log_path, 5))))

    def metadata_of(self, output, spec, made):
        """The record to declare: inherited, then the executable's, then the campaign's, then what is a fact."""
        record = self.inherited(spec.get("inherit") or [], spec.get("metadata") or {})
        runs = unique([run for entry in self.records for run in entry.get("runs") or []])
        params = self.unit.get("params") or {}
        if not self.records and params.get("run") is not None:
            runs = [[params["run"], params.get("subrun") or 0, params.get("run_type") or "mc"]]
        if runs:
            record["runs"] = runs
        record.update(made)
        if self.order["type"] == "merge" and runs:
            record["runs"] = runs           # united: not the executable's to say
        record.update(spec.get("metadata") or {})
        record.setdefault("file_format", "root")
        record.update(file_name=output["name"], file_size=output["size"], checksum=output["checksum"])
        if self.order.get("application"):
            record["application"] = self.order["application"]
        if self.records:
            record["parents"] = [{"file_name": entry["file_name"]} for entry in self.records]
        if self.report["process_id"] is not None:
            record["process_id"] = self.report["process_id"]
        return record

    def inherited(self, names, replaced):
        """Values of the inputs for these keys, where all inputs agree. SAM's keys know no case.

        A merge's inputs must agree, but for keys that the campaign replaces. Raises Failure conflict.
        """
        found, own = {}, [name.lower() for name in replaced]
        lowered = [{key.lower(): value for key, value in entry.items()} for entry in self.records]
        for name in names:
            values = unique([entry.get(name.lower()) for entry in lowered])
            if len(values) == 1 and values[0] is not None:
                found[name] = values[0]
            elif len(values) > 1 and self.order["type"] == "merge" and name.lower() not in own:
                other = next(entry for entry in lowered if entry.get(name.lower()) != values[0])
                raise Failure("conflict", "the inputs do not agree in %s: %r in %s, %r in %s" % (
                    name, values[0], lowered[0]["file_name"], values[1], other["file_name"]))
            elif values:
                log("not inherited, the inputs say %s for %s" % (values[:3], name))
        return found

    # -- 5 copy

    def copy(self):
        """Copy each output into a directory of this job start alone, and verify it there."""
        try:
            for index in range(len(self.report["outputs"])):
                self.copy_one(index)
        except BaseException:
            self.remove_copies()            # nothing is declared yet, and a part of a unit is of no use
            raise
        return "; ".join(output["url"] for output in self.report["outputs"])

    def own_directory(self):
        """Below the output location, for this job start alone: `/LAUNCH/NUMBER-ab12cd`."""
        return "/%s/%s-%s" % (*self.key.rpartition(".")[::2], self.start)

    def copy_one(self, index):
        output, spec = self.report["outputs"][index], self.order["outputs"][index]
        directory, patience_s = self.own_directory(), self.limits["copy_patience_s"]
        place = store_at(spec["url"].rstrip("/") + directory, copy_time_s(patience_s, output["size"]))
        sums = dict(item.split(":", 1) for item in output["checksum"])
        output.update(location=spec["location"].rstrip("/") + directory, url=place.url + "/" + quote(output["name"]))

        def attempt():
            place.make()
            place.put(self.local_output(index), output["name"], output["size"], sums)

        persistently(attempt, patience_s)
        output["state"] = "copied"

    def remove_copies(self):
        for output, spec in self.outputs():
            if output["url"]:
                self.remove_copy(output, spec)
                output.update(state="made", location=None, url=None)

    def remove_copy(self, output, spec):
        try:
            store_at(spec["url"].rstrip("/") + self.own_directory(), 30).remove(output["name"])
        except (Failure, OSError) as error:
            log("warning: could not remove %s: %s" % (output["url"], error))

    # -- 6 declare

    def declare(self):
        """Declare each output and add its location. One that SAM refuses does not keep the others back."""
        refused = None
        for output, spec in self.outputs():
            try:
                self.declare_one(output, spec)
            except Failure as failure:
                refused = refused or failure
        if refused:
            raise refused
        return "; ".join("%s %s" % (output["name"], output["state"]) for output in self.report["outputs"])

    def declare_one(self, output, spec):
        """The catalog decides: a name is declared once, and the first to declare it wins."""
        try:
            self.sam.declare(output["metadata"])
        except SamRefused as refused:
            if refused.status != 409:
                parents = "parent" in refused.message.lower()
                raise Failure("parents_missing" if parents else "sam_refused", str(refused)) from refused
            if not self.same_as_ours(output):
                output["state"] = "lost_race"
                self.remove_copy(output, spec)
                return
        output["state"] = "declared"
        try:
            self.sam.add_location(output["name"], output["location"])
        except SamRefused as refused:
            raise Failure("sam_refused", "%s is declared, its location %s is not added: %s" % (
                output["name"], output["location"], refused)) from refused
        output["state"] = "located"

    def same_as_ours(self, output):
        """What an existing record means: True, it is ours to locate; False, another has won. Raises Failure."""
        name = output["name"]
        for pause in (2, 0):                # the winner may be between its declaration and its location
            found = self.sam.records(name)
            if not found:
                raise Failure("sam_refused", "SAM says %s exists, and shows no record of it" % name)
            places = [str(place.get("full_path") or place.get("location")) for place in found[0].get("locations") or []]
            if places:
                break
            time.sleep(pause)
        if output["location"] in places:
            return True
        if places:
            log("%s is declared already, with a copy at %s: ours is removed" % (name, places[0]))
            return False
        sums = dict(item.split(":", 1) for item in output["checksum"])
        different = differences(found[0], output["size"], sums)
        if found[0].get("retired_date"):
            different.append("it is retired in the catalog")
        if different:
            raise Failure("record_differs", "%s is declared already, without a location, and not as ours: %s" % (
                name, "; ".join(different)))
        return True

    # -- 7 finish

    def finish(self):
        """Mark the input consumed and end the process. The output is declared: nothing here can undo that."""
        troubles = [self.tell_file("consumed", self.sam.patience_s)] if self.held_file else []
        if not any(troubles):
            troubles.append(self.tell("PUT", "/status", {"status": "completed"}, LEAVE_PATIENCE_S))
            troubles.append(self.tell("POST", "/endProcess", None, LEAVE_PATIENCE_S))
        return "warned: " + "; ".join(filter(None, troubles)) if any(troubles) else "process %d ended" % (
            self.report["process_id"])

    # -- the end, good or bad

    def judge(self, error):
        """Put the outcome into the report: exit code, step, fault and message."""
        report, step = self.report, self.report["step"]
        done = report["outputs"] and all(output["state"] in ("located", "lost_race") for output in report["outputs"])
        if done and error is not None:
            log("ended after the last declaration, so the unit is done: %r" % error)
            report["steps"][-1]["outcome"] = "warned"
        if done or error is None:
            outcome, fault, message = "ok", None, None
        elif isinstance(error, NoFile):
            outcome, fault, message = "no_file", "no_file", str(error)
        elif isinstance(error, Ended):
            outcome, fault, message = "signal", "ended_by_signal", "ended by %s in step %s" % (error.name, step)
        else:
            step = outcome = getattr(error, "step", None) or step
            fault, message = fault_of(error, step), str(error) or repr(error)
        report.update(exit_code=EXIT_CODES[outcome], step=step, fault=fault, message=message and clean(message))
        if fault == "worker_error":
            import traceback
            for line in traceback.format_tb(error.__traceback__):
                log("! " + line)

    def leave(self):
        """After a failure: tell SAM that this process did not do its work. Quickly, and without insisting."""
        if not self.process_url:
            return
        self.sam.timeout_s = LEAVE_PATIENCE_S
        failed = self.report["fault"] != "no_file"
        if failed and self.held_file and self.tell_file("skipped", 0):
            return                          # SAM does not answer: no use to ask the rest
        if not self.tell("PUT", "/status", {"status": "bad" if failed else "completed"}, 0):
            self.tell("POST", "/endProcess", None, 0)

    def write_report(self):
        """Write report.json in one stroke; where the disk is full, make room first."""
        self.report["ended"] = utc()
        path = os.path.join(self.scratch, "report.json")
        for _ in (1, 2):
            try:
                with open(path + ".part", "w") as stream:
                    json.dump(self.report, stream, indent=1)
                os.replace(path + ".part", path)
                return
            except OSError as error:
                log("warning: cannot write %s: %s" % (path, error))
                self.clean_up()

    def clean_up(self):
        shutil.rmtree(self.work, ignore_errors=True)


class Delivery(object):
    """What getNextFile says: an HTTP status, and with 200 the URL and the spellings its file's name can have."""
    def __init__(self, reply):
        self.status, self.headers, self.names = reply.status, reply.headers, []
        if self.status not in (202, 204):
            said = reply.json() if reply.text.startswith("{") else {}
            lines = reply.text.splitlines()
            self.url = said["url"] if said else lines[0].strip()
            given = said.get("filename") if said else "".join(lines[1:2]).strip()
            last = self.url.rpartition("/")[2]
            self.names = [name for name in (given, unquote(last), last) if name]
            if not re.match(r"[a-z0-9+]+:/", self.url) or not self.names:
                raise ValueError("expected the URL of a file, got %r" % reply.text[:200])


def project_is_over(refused):
    """No project, or one that has ended: there is no work for us, and that is no failure."""
    return refused.status in (404, 410) or bool(re.search(r"\bended|Ended|not running|no longer", str(refused)))


def fault_of(error, step):
    """The machine word for what went wrong in this step."""
    known = [(Failure, getattr(error, "fault", "")), (SamUnavailable, "sam_unavailable"), (SamRefused, "sam_refused")]
    fault = next((word for kind, word in known if isinstance(error, kind)), "worker_error")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no_space"
    if isinstance(error, Failure) and step in FAULTS and fault not in FAULTS[step]:
        return "unreachable"
    return fault


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def some_of(names):
    """Names for a message: the first ten, and how many more there are."""
    return ", ".join(names[:10]) + (" and %d more" % (len(names) - 10) if len(names) > 10 else "")


def unique(values):
    kept = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept


# ---- from the command line ---------------------------------------------------------------------------------------

def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="The worker of a keepupd job. In a job:\n  keepup_worker.py order.json --job LAUNCH.NUMBER\n"
                    "By hand, without SAM, to see what the executable does to a file:\n  keepup_worker.py --input FILE "
                    "--outdir DIR -- reco.py -i {input} -o {output} --metadata {metadata}",
        epilog="placeholders: %s {output:LABEL} {metadata:LABEL}\nexit codes: %s\n"
               "It writes report.json and executable.log into the current directory; docs/worker.md explains both."
               % (" ".join("{%s}" % name for name in PLACEHOLDERS),
                  ", ".join("%d %s" % (code, name) for name, code in EXIT_CODES.items())))
    parser.add_argument("order", nargs="?", help="the launch's order, written by keepupd")
    parser.add_argument("--job", metavar="LAUNCH.NUMBER", help="this job's key")
    parser.add_argument("--input", action="append", default=[], metavar="FILE", help="by hand: an input file; repeat")
    parser.add_argument("--outdir", metavar="DIR", help="by hand: where the output goes, in a directory of its own")
    parser.add_argument("--output", action="append", metavar="NAME",
                        help="by hand: an output's file name, which is its label too; repeat (default: output.root)")
    parser.add_argument("--no-root", action="store_true", help="by hand: the outputs are no ROOT files")
    cut = argv.index("--") if "--" in argv else len(argv)       # argparse itself would take options of the command
    args, command = parser.parse_args(argv[:cut]), argv[cut + 1:]
    if bool(args.order) == bool(args.outdir) or (args.order and not args.job) or (args.outdir and not command):
        parser.error("give either ORDER and --job, or --outdir and, after --, a command")
    return args, command


def order_by_hand(args, command):
    names, place = args.output or ["output.root"], os.path.abspath(args.outdir)
    return {"version": 1, "campaign": "by_hand", "type": "reco", "launch": "by_hand", "inputs": args.input,
            "argv": command, "units": {"1": {"unit": "by_hand", "outputs": {name: name for name in names}}},
            "outputs": [{"label": name, "location": "local:" + place, "url": "file://" + quote(place),
                         "checks": {"root": not args.no_root}} for name in names]}


def read_order(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError) as error:
        raise Failure("bad_order", "the order %s cannot be read: %s" % (path, error), "order") from error


def catch_signals():
    """The first signal raises Ended, those after it are ignored: we are leaving. nohup's SIGHUP stays ignored."""
    def leave(number, _):
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    def too_slow(*_):
        raise socket.timeout("no whole answer in time")

    for each in SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, leave)
    signal.signal(signal.SIGALRM, too_slow)


def main(argv):
    args, command = parse_arguments(argv)
    job, ended = Job(args.job or "by_hand.1", os.getcwd()), None
    catch_signals()
    log("keepup_worker: job %s on %s, Python %s" % (job.key, job.report["host"], job.report["python"]))
    try:
        job.run(read_order(args.order) if args.order else order_by_hand(args, command))
    except BaseException as error:          # whatever it was, there is a report
        ended = error
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    job.judge(ended)
    job.write_report()
    if job.report["exit_code"]:
        job.leave()
    job.clean_up()
    log("keepup_worker: exit code %d, %s%s" % (job.report["exit_code"], job.report["fault"] or "ok", (
        ": " + job.report["message"]) if job.report["message"] else ""))
    return job.report["exit_code"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
