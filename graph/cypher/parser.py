"""Text to tree, and what is wrong with a text in a sentence.

A text that lark cannot read is BadQuery with line, column and what could have stood there. When
it stumbles over openCypher that is not served, it is UnsupportedClause and names the clause: the
constructs are recognised by their words around the place.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

from lark import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from graph.cypher import tree
from graph.cypher.builder import built, parser
from graph.cypher.tree_walks import depth
from graph.errors import BadQuery, UnsupportedClause

TEXT_BYTES_MAX: Final = 65_536
DEPTH_MAX: Final = 64
_SHOWN_MAX: Final = 8
_LACKING: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"\bUNION\b(\s+ALL\b)?", "UNION"),
        (r"\bCALL\b", "CALL"),
        (r"\bYIELD\b", "YIELD"),
        (r"\bFOREACH\b", "FOREACH"),
        (r"\bLOAD(\s+CSV)?\b", "LOAD CSV"),
        (r"\bUSE\b", "USE"),
        (r"\bUSING\b", "USING"),
        (r"\bPROFILE\b", "PROFILE"),
        (r"\bFINISH\b", "FINISH"),
        (r"\bINSERT\b", "INSERT"),
        (r"\b(SHOW|DROP|ALTER|START|STOP|TERMINATE|GRANT|DENY|REVOKE)\b", "administration"),
        (r"\bCREATE(\s+OR\s+REPLACE)?(\s+\w+)?\s+(INDEX|LOOKUP)\b", "CREATE INDEX"),
        (r"\bCREATE(\s+OR\s+REPLACE)?\s+CONSTRAINT\b", "CREATE CONSTRAINT"),
        (r"\bCREATE(\s+OR\s+REPLACE)?\s+(DATABASE|USER|ROLE|ALIAS)\b", "administration"),
        (r"\bNODETACH\b", "NODETACH DELETE"),
        (r"\b(all)?shortestPaths?\s*\(", "shortestPath"),
        (r"\b(ALL|ANY)?\s*SHORTEST\b", "SHORTEST"),
        (r"\bEXISTS\s*\{", "EXISTS { }"),
        (r"\bCOUNT\s*\{", "COUNT { }"),
        (r"\bCOLLECT\s*\{", "COLLECT { }"),
        (r"=~", "=~"),
        (r"\w\s*\{\s*\.", "a map projection"),
        (r"\(\s*\(", "a quantified path pattern"),
        (r"\)\s*[+*{]", "a quantified path pattern"),
        (r"->?\s*[+*{]", "a quantified path pattern"),
        (r"\)\s*<?-\s*(\[\s*\w*\s*:|-\s*>?\s*\(\s*[:)]?)", "a pattern inside an expression"),
        (r"\)\s*<?-\s*>", "a pattern inside an expression"),
        (r"\[\s*\(", "a pattern comprehension"),
        (r"\bOFFSET\b", "OFFSET"),
        (r"\bNEXT\b", "NEXT"),
    )
)
_WORDS: Final = {
    "$END": "the end",
    "NAME": "a name",
    "QUOTED": "a name",
    "INTEGER": "a number",
    "FLOAT": "a number",
    "BASED": "a number",
    "STRING": "a string",
    "PARAMETER": "a parameter",
    "COMPARISON": "a comparison",
    "LESSTHAN": "'<'",
    "MORETHAN": "'>'",
}
_GROUPS: Final = {
    "an expression": "a number|a string|a parameter|a name|NOT|CASE|NULL|TRUE|FALSE|REDUCE|'('|'['|"
    "'{'|'+'|'-'",
    "an operator": "AND|OR|XOR|IN|IS|STARTS|ENDS|CONTAINS|a comparison|'+'|'-'|'*'|'/'|'%'|'^'|'='|"
    "'<'|'>'|'['|'.'|':'",
    "a clause": "MATCH|OPTIONAL|UNWIND|WITH|RETURN|CREATE|MERGE|SET|REMOVE|DELETE|DETACH|EXPLAIN",
}
"""What is said instead of more than five of these."""
_GROUPED_MIN: Final = 6


def parse(text: str) -> tree.Query:
    """Return the query that a text is.

    Raises:
        BadQuery: it is none, is too long or too deep.
        UnsupportedClause: it uses what is not served.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadQuery("a query is Unicode text") from None
    if size > TEXT_BYTES_MAX:
        raise BadQuery(f"a query has at most {TEXT_BYTES_MAX} bytes")
    try:
        query = built(text)
    except UnexpectedInput as error:
        raise _refusal(text, error) from None
    if depth(query) > DEPTH_MAX:
        raise BadQuery(f"expressions nest at most {DEPTH_MAX} deep")
    return query


def _refusal(text: str, error: UnexpectedInput) -> BadQuery:
    ends = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    at: int = len(text) if ends else cast("Any", error).pos_in_stream
    lacking = _lacking(text, at)
    before = text[:at]
    line, column = before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1
    place = f"line {line}, column {column}"
    if lacking is not None:
        return UnsupportedClause(f"{place}: {lacking} is not supported")
    return BadQuery(f"{place}: {_found(text, at)}, but {_expected(error)} was expected")


def _lacking(text: str, at: int) -> str | None:
    """Return the construct that the place lies in or directly behind, if it is a known one."""
    end = len(text[:at].rstrip())
    for pattern, name in _LACKING:
        for match in pattern.finditer(text, max(0, at - 80), at + 80):
            behind = name.startswith("CREATE") and match.end() == end
            if match.start() <= at < match.end() or behind:
                return name
    return None


def _found(text: str, at: int) -> str:
    rest = text[at:]
    if not rest.strip():
        return "the query ends"
    if rest[0] in "'\"`":
        return f"{rest[0]} opens what is not closed or has no place here"
    word = re.match(r"\w+|\S", rest)
    assert word is not None, "something is not a space"
    return f"found '{word[0][:40]}'"


def _expected(error: UnexpectedInput) -> str:
    names: set[str] | None = None
    if isinstance(error, UnexpectedToken):
        names = error.accepts or error.expected
    elif isinstance(error, UnexpectedCharacters):
        names = error.allowed
    shown = list(dict.fromkeys(_shown(name) for name in sorted(names or ()) if name != "COMMENT"))
    for group, members in _GROUPS.items():
        inside = [each for each in shown if each in members.split("|")]
        if len(inside) >= _GROUPED_MIN:
            shown = [each for each in shown if each not in inside] + [group]
    if len(shown) > _SHOWN_MAX:
        return ", ".join(shown[:_SHOWN_MAX]) + " or some other word"
    return " or ".join((", ".join(shown[:-1]), shown[-1]) if len(shown) > 1 else shown)


def _shown(terminal: str) -> str:
    if terminal in _WORDS:
        return _WORDS[terminal]
    pattern = next(each.pattern.value for each in parser().terminals if each.name == terminal)
    return f"'{pattern}'" if not pattern[:1].isalpha() else terminal.lstrip("_")
