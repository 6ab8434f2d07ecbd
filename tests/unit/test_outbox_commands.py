"""`recollect outbox`: what the commands print, and how they refuse."""

import asyncio
import json
import os

import asyncpg
import pytest

from cluster.cli import run
from storage.outbox.model import Rejected
from storage.outbox.session import Session
from tests.outbox_tables import NOTES
from tests.postgres import empty_database

INSTALL = ("install", "--table", "notes", "--collection", "notes", "--id", "id", "--text", "body")


@pytest.fixture
def said(capsys, monkeypatch, postgres):
    """Run `recollect outbox` on a database with two notes; return its exit code and its words."""
    with asyncio.Runner() as runner:
        place = empty_database(postgres)
        url = runner.run(place.__aenter__()).replace("@", ":sesame@", 1)
        monkeypatch.setenv("RECOLLECT_OUTBOX_URL", url)
        runner.run(execute(url, NOTES, "INSERT INTO notes VALUES (1, 'a', 5), (2, 'b', 6)"))

        def recollect(*words):
            code = run(("outbox", *words))
            printed = capsys.readouterr()
            assert "sesame" not in printed.out + printed.err
            return code, printed

        yield recollect
        runner.run(place.__aexit__(None, None, None))


async def execute(url, *statements):
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def bury(url):
    """Make the first change a dead letter, and apply the rest."""
    async with Session.opened(url) as session:
        assert await session.lock(1)
        batch = await session.take(1, "c")
        assert batch is not None
        await session.set_aside(1, batch, [Rejected(batch.events[0], "embedding_failed", "blank")])
        rest = await session.take(1, "c")
        assert rest is not None
        await session.acknowledge(1, rest)


def test_an_outbox_from_its_beginning_to_its_end(said):
    """Installed twice, looked at, paused, resumed, replayed, removed."""
    assert "2 rows are queued" in said(*INSTALL)[1].out
    assert "flows into 'notes' already" in said(*INSTALL)[1].out
    shown = said("status")[1].out
    assert "public.notes" in shown
    assert "unattended" in shown
    assert "is paused" in said("pause", "--collection", "notes")[1].out
    (source,) = json.loads(said("status", "--json")[1].out)["sources"]
    assert (source["state"], source["pending"], source["gap"]) == ("paused", 2, False)
    assert "is resumed" in said("resume", "--collection", "notes")[1].out
    asyncio.run(bury(os.environ["RECOLLECT_OUTBOX_URL"]))
    dead = said("dead", "--collection", "notes")[1].out
    assert "embedding_failed" in dead
    assert "blank" in dead
    assert (
        "1 dead letters are settled" in said("replay", "--collection", "notes", "--id", "1")[1].out
    )
    assert "No dead letters" in said("dead", "--collection", "notes")[1].out
    assert "1 changes are dead" in said("nack", "--collection", "notes", "--key", "1")[1].out
    (letter,) = json.loads(said("dead", "--collection", "notes", "--json")[1].out)["dead_letters"]
    assert (letter["key"], letter["reason"]) == ("1", "manual_nack")
    assert "1 changes that waited are gone" in said("remove", "--collection", "notes")[1].out
    assert "No outbox is installed" in said("status")[1].out


def test_columns_of_the_payload(said):
    """All of them, some, or the text alone; existing rows may be left out."""
    code, done = said(*INSTALL, "--payload", "stars, body", "--no-existing", "--json")
    assert (code, json.loads(done.out)) == (0, {"installed": True, "queued": 0})
    code, refused = said(*INSTALL, "--payload", "all", "--json")

    assert (code, json.loads(refused.out)["error"]["code"]) == (1, "outbox_failed")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((*INSTALL, "--vector", "v"), 2, "either --text or --vector"),
        (("replay", "--collection", "notes"), 2, "either --id or --all"),
        (("pause", "--collection", "notes"), 1, "no outbox fills the collection 'notes'"),
        ((*INSTALL[:2], "nothing", *INSTALL[3:]), 1, "there is no table nothing"),
        ((*INSTALL[:4], "a/b", *INSTALL[5:]), 2, "a collection name has"),
        (("status", "--from", "postgresql://u:sesame@127.0.0.1:1/x"), 1, "cannot be reached"),
        (("status", "--from", "sesame"), 1, "cannot be read"),
        (("status", "--from", ""), 1, "no database was given"),
    ],
)
def test_what_is_wrong_is_said(said, words, code, sentence):
    """One sentence, a hint, and no secret."""
    found, printed = said(*words)

    assert found == code
    assert sentence in printed.err
