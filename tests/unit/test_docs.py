"""What the documents say is held against the source: settings, routes, errors, commands, links."""

import re
import tomllib
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from cluster.api.app import ROUTES
from cluster.cli import app
from cluster.commands.config import markdown_table
from cluster.config import Config
from cluster.errors import RecollectError

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README, API, OPERATIONS, DESIGN = (
    ROOT / name for name in ("README.md", "docs/API.md", "docs/OPERATIONS.md", "docs/DESIGN.md")
)
# Variables that are no setting of a node.
OTHER_VARIABLES = {"RECOLLECT_URL", "RECOLLECT_TRACEBACK"}
TERMS = [
    "node",
    "shard",
    "replica",
    "group",
    "leader",
    "term",
    "index",
    "commit index",
    "applied index",
    "session token",
    "state hash",
    "collection",
    "point",
    "version",
]

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def everything():
    return "\n".join(path.read_text() for path in DOCUMENTS)


def error_classes(kind=RecollectError):
    yield kind
    for below in kind.__subclasses__():
        yield from error_classes(below)


def route_of(method, path):
    plain = re.sub(r"\{(\w+)(?::(?:[^{}]|\{[^{}]*\})*)?\}", r"{\1}", path)
    plain = plain.replace("{collection_name}", "{name}").replace("{graph_name}", "{name}")
    return f"{method} {plain}"


def test_settings_table_is_the_source():
    """The table of settings is what `recollect config --markdown` prints."""
    text = OPERATIONS.read_text()
    _, _, rest = text.partition("--markdown` -->\n")
    table, end, _ = rest.partition("\n<!-- end of settings -->")

    assert end
    assert table == markdown_table()


@each_document
def test_variables_exist(path):
    """Every variable that a document names is one that something reads."""
    known = {f"RECOLLECT_{name.upper()}" for name in Config.__dataclass_fields__} | OTHER_VARIABLES
    named = set(re.findall(r"RECOLLECT_[A-Z_]+[A-Z]", path.read_text()))

    assert named <= known


def test_every_route_is_described():
    """docs/API.md has each route of the API, and none that does not exist."""
    served = {route_of(route.method, route.path) for route in ROUTES} | {"GET /openapi.json"}
    described = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", API.read_text(), re.MULTILINE))

    assert described == served


def test_every_error_is_described():
    """docs/API.md has each error code with its status, and none that does not exist."""
    tree = [kind for kind in error_classes() if kind.__module__ == RecollectError.__module__]
    known = {(kind.code, str(kind.status)) for kind in tree}
    described = set(re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", API.read_text(), re.MULTILINE))

    assert described == known


def test_commands_exist():
    """Every `recollect ...` in the documents is a command, and every command occurs in them."""
    whole = get_command(app)
    assert isinstance(whole, TyperGroup)
    known = set(whole.commands)
    named = set(re.findall(r"(?:`|bin/|^)recollect ([a-z]+)", everything(), re.MULTILINE))

    assert named == known


def test_make_targets_exist():
    """Every `make ...` in the documents is a target."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", everything(), re.MULTILINE))

    assert named
    assert named <= targets


@each_document
def test_links_lead_somewhere(path):
    """Every relative link is a file of the repository."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    local = [link for link in links if "://" not in link]

    assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("term", TERMS)
def test_glossary_has(term):
    """The words that the documents rely on are defined once."""
    rows = re.findall(r"^\| ([a-z, ]+) \|", DESIGN.read_text(), re.MULTILINE)
    defined = [word.strip() for row in rows for word in row.split(",")]

    assert defined.count(term) == 1


def test_described_folders_exist():
    """The tree in docs/DESIGN.md is the tree of the repository."""
    _, _, rest = DESIGN.read_text().partition("## Parts\n\n```\n")
    folder, missing = ROOT, []
    for line in rest.partition("\n```")[0].splitlines():
        names = re.match(r" *((?:[\w.]+/?(?:, )?)+)", line)
        assert names, line
        if not line.startswith(" "):
            folder = ROOT / names[1].strip()
            missing += [] if folder.is_dir() else [folder]
            continue
        for name in names[1].strip().split(", "):
            if not (folder / name).exists():
                missing.append(folder / name)

    assert missing == []


def test_changelog_form():
    """The changelog keeps its form, and begins with what is not released or with this version."""
    text = (ROOT / "CHANGELOG.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    releases = re.findall(r"^## \[([^]]+)\]", text, re.MULTILINE)
    kinds = set(re.findall(r"^### (\w+)", text, re.MULTILINE))

    assert releases[0] in {"Unreleased", version}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_license_is_whole():
    """The licence that pyproject.toml names is in the repository, with its appendix."""
    text = (ROOT / "LICENSE").read_text()

    assert "Apache License" in text
    assert "APPENDIX: How to apply" in text
