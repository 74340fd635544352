"""The other half of `keepupctl audit`: outputs, as the store has them, SAM shows them, and the storage holds them.

All three go into temporary tables, in this order, so that any number of files fit, and so that what was declared in the
meantime is in the later ones. FINDINGS then names what does not agree, and says what mends it.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    MetaData,
    Select,
    String,
    Table,
    exists,
    func,
    literal,
    select,
)

from keepupd.campaign import Campaign, outputs_of
from keepupd.clients.storage import StorageUnavailable
from keepupd.core.chunks import chunked
from keepupd.core.errors import KeepupError
from keepupd.store.tables import AnyRow, files, launches, units

if TYPE_CHECKING:
    from keepupd.clients.catalog import Catalog, FileRecord
    from keepupd.clients.storage import Storage

TOGETHER = 500
LAUNCH, JOB = re.compile(r"\d{8}-\d{6}-[a-z0-9]{4}"), re.compile(r"\d+-\w+")  # directories below an output's location
OF_A_JOB = re.compile(f".*/{LAUNCH.pattern}/{JOB.pattern}")  # what was moved elsewhere since is not ours to judge
ON_ITS_WAY = ("running", "validated")  # its job or the daemon is at it


def _temporary(name: str, *columns: Column[Any]) -> Table:
    return Table(name, MetaData(), *columns, prefixes=["TEMPORARY"])


expected = _temporary(
    "expected", Column("output", String, primary_key=True), Column("unit_id", BigInteger, nullable=False, index=True)
)
shown = _temporary("shown", Column("output", String, primary_key=True), Column("file_id", BigInteger),
                   Column("located", Boolean))  # fmt: skip
parents = _temporary("parents", Column("output", String, index=True), Column("file_id", BigInteger, index=True))
places = _temporary("places", Column("output", String, index=True), Column("place", String))  # in SAM, on our storage
copies = _temporary("copies", Column("output", String, index=True), Column("place", String))
TABLES = (expected, shown, parents, places, copies)


class Compared(NamedTuple):
    """`broken`: what is wrong -> names; `remedies`: what is wrong -> what mends it; `units`: ids of those that
    the daemon can mend -> locations where copies of theirs are."""

    in_sam: int | None
    storage_error: str
    broken: dict[str, list[str]]
    remedies: dict[str, str]
    units: dict[int, list[str]]


def compare(
    db: Connection, sam: "Catalog", storage: "Storage", row: AnyRow, parameter: str, begun: datetime
) -> Compared:
    """Raises SamUnavailable or SamRefused; a silent storage is in the answer."""
    campaign, unlisted = Campaign.model_validate_json(row.settings), ""
    with db.begin():
        _fill_expected(db, campaign, row.id)
    for some in chunked(sam.files(f"({outputs_of(campaign, parameter)}) with availability anylocation"), TOGETHER):
        _fill_shown(db, campaign, list(sam.records([file.name for file in some]).values()))
    try:
        _fill_copies(db, storage, campaign)
    except KeepupError as trouble:
        unlisted = trouble.problem
    with db.begin():  # a new look at the store: what has moved since is left to the next audit
        in_sam = db.execute(select(func.count()).select_from(shown)).scalar_one()
        return Compared(in_sam, unlisted, *_findings(db, campaign, row.id, begun, not unlisted))


def _fill_expected(db: Connection, campaign: Campaign, campaign_id: int) -> None:
    for table in TABLES:
        table.drop(db, checkfirst=True)
        table.create(db, checkfirst=False)
    query = select(units.c.id, units.c.name, units.c.edition).where(units.c.campaign_id == campaign_id)
    for some in chunked(db.execute(query), TOGETHER):
        rows = [(name, u.id) for u in some for name in campaign.output_names(u.name, u.edition).values()]
        db.execute(expected.insert(), [{"output": name, "unit_id": unit_id} for name, unit_id in rows])


def _fill_shown(db: Connection, campaign: Campaign, records: list["FileRecord"]) -> None:
    ours = [(r.name, place) for r in records for place in r.locations
            if OF_A_JOB.match(place) and any(output.url_of(place) for output in campaign.outputs)]  # fmt: skip
    family = [(r.name, int(one["file_id"])) for r in records for one in r.metadata.get("parents") or ()]
    for table, rows in (
        (shown, [{"output": r.name, "file_id": r.file_id, "located": bool(r.locations)} for r in records]),
        (places, [{"output": name, "place": place.partition("(")[0]} for name, place in ours]),
        (parents, [{"output": name, "file_id": file_id} for name, file_id in family]),
    ):
        if rows:
            with db.begin():
                db.execute(table.insert(), rows)


def _fill_copies(db: Connection, storage: "Storage", campaign: Campaign) -> None:
    """Every copy in the directories that jobs made, below each location once."""
    for location, url in {output.location.rstrip("/"): output.url.rstrip("/") for output in campaign.outputs}.items():
        with db.begin():
            used = db.execute(select(places.c.place).where(places.c.place.startswith(f"{location}/")).limit(1)).first()
        if used and not storage.list(url):
            raise StorageUnavailable(f"{url} shows nothing at all", "is it mounted here?")
        for found in chunked(_walk(storage, location, url), TOGETHER):
            with db.begin():
                db.execute(copies.insert(), [{"output": name, "place": place} for name, place in found])


def _walk(storage: "Storage", location: str, url: str) -> Iterator[tuple[str, str]]:
    for launch in filter(LAUNCH.fullmatch, storage.list(url)):
        for job in filter(JOB.fullmatch, storage.list(f"{url}/{launch}")):
            for name in storage.list(f"{url}/{launch}/{job}"):
                yield name, f"{location}/{launch}/{job}"


# --- what does not agree --------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    what: str
    remedy: str
    query: Select[Any]  # of unit_id and name
    mends: bool = False  # the daemon, when asked by --repair
    by_storage: bool = False


MADE = exists().where(shown.c.output == expected.c.output)
LOCATED = exists().where(shown.c.output == expected.c.output, shown.c.located)
# An output by another name, of a file of this unit; those of an analysis and a generator have the names we give.
CHILD = exists().where(parents.c.output == shown.c.output, parents.c.file_id == files.c.file_id,
                       files.c.unit_id == units.c.id, shown.c.located)  # fmt: skip
COPY = exists().where(copies.c.output == expected.c.output)
STRAY = ~exists().where(copies.c.output == places.c.output, copies.c.place == places.c.place)
LOST = exists().where(places.c.output == expected.c.output, STRAY)
UNDECLARED = LOCATED & exists().where(
    copies.c.output == expected.c.output,
    ~exists().where(places.c.output == copies.c.output, places.c.place == copies.c.place),
    ~exists().where(launches.c.closed.is_(None), copies.c.place.contains("/" + launches.c.key + "/")),
)  # fmt: skip


def _all_findings(campaign: Campaign, campaign_id: int, begun: datetime) -> list[Finding]:
    mine = select(units.c.id, expected.c.output).join(units, units.c.id == expected.c.unit_id)
    mine = mine.where(units.c.since < begun).order_by(expected.c.output)
    named = mine.with_only_columns(units.c.id, units.c.name)
    settled = units.c.state.not_in(ON_ITS_WAY)
    tried_again = units.c.state.in_(["pending", "held", "crash"])
    redo, done = "make it again: keepupctl redo FILE", units.c.state == "declared"
    return [
        Finding("declared in the store, not in SAM", redo, named.where(done, ~MADE, ~CHILD)),
        Finding("shown by SAM, not declared in the store", "taken as declared",
                named.where(tried_again, LOCATED | CHILD), mends=True),
        Finding("shown by SAM, in debug in the store", "look, then: keepupctl retry FILE",
                named.where(units.c.state == "debug", LOCATED | CHILD)),
        Finding("outputs without location, a copy is there", f"its location is added if the bytes agree, else {redo}",
                mine.where(settled, MADE, ~LOCATED, COPY), mends=True, by_storage=True),
        Finding("outputs without location", f"add a location by hand, or {redo}",
                mine.where(settled, MADE, ~LOCATED, ~COPY)),
        Finding("locations without file, another copy is there",
                f"replaced by the other copy if the bytes agree, else {redo}",
                mine.where(settled, LOST, COPY), mends=True, by_storage=True),
        Finding("locations without file", redo, mine.where(settled, LOST, ~COPY), by_storage=True),
        Finding("copies that nobody declared", "removed: SAM points to another one",
                mine.where(done, UNDECLARED, ~LOST), mends=True, by_storage=True),
        Finding("second outputs of one input", "choose one, then: samweb retire-file THE_OTHER",
                _seconds(campaign, campaign_id)),
    ]  # fmt: skip


def _seconds(campaign: Campaign, campaign_id: int) -> Select[Any]:
    """The later ones, by file id, where an input has more outputs than a job makes."""
    ours = exists().where(files.c.campaign_id == campaign_id, files.c.file_id == parents.c.file_id)
    rank = func.row_number().over(partition_by=parents.c.file_id, order_by=shown.c.file_id)
    ranked = (
        select(shown.c.output, rank.label("rank"))
        .join(parents, parents.c.output == shown.c.output).where(ours).subquery()
    )  # fmt: skip
    later = select(literal(0), ranked.c.output).where(ranked.c.rank > len(campaign.outputs))
    return later.order_by(ranked.c.output)


def _findings(
    db: Connection, campaign: Campaign, campaign_id: int, begun: datetime, listed: bool
) -> tuple[dict[str, list[str]], dict[str, str], dict[int, list[str]]]:
    broken: dict[str, list[str]] = {}
    remedies: dict[str, str] = {}
    mendable: dict[int, list[str]] = {}
    for finding in _all_findings(campaign, campaign_id, begun):
        rows = db.execute(finding.query).all() if listed or not finding.by_storage else []
        if rows:
            broken[finding.what] = list(dict.fromkeys(row[1] for row in rows))
            remedies[finding.what] = ("--repair: " if finding.mends else "") + finding.remedy
        if finding.mends:
            mendable |= {row[0]: _copies_of(db, row[0]) for row in rows}
    return broken, remedies, mendable


def _copies_of(db: Connection, unit_id: int) -> list[str]:
    query = select(copies.c.place).join(expected, expected.c.output == copies.c.output)
    return list(db.execute(query.where(expected.c.unit_id == unit_id).order_by(copies.c.place).distinct()).scalars())
