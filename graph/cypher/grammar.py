"""The grammar of the openCypher subset, LALR(1), for lark.

The lexer only tries the terminals that may come next. That is why `type`, `order` or `match` can
name a property, a label or mostly even a variable. Keywords end at a word's end and go before
names.

`[x IN list WHERE ...]` and `all(x IN list WHERE ...)` are read as a condition `x IN list` first,
and taken apart when the tree is built: one token ahead cannot tell them from a list.

`begin` is nothing: it is read where a column begins, to remember the place.
"""

from typing import Final

GRAMMAR: Final = r"""
query: [EXPLAIN] clause+ [";"]

?clause: match | unwind | with | return | create | merge | set | remove | delete

match: [OPTIONAL] _MATCH patterns [where]
unwind: _UNWIND expr _AS name
with: _WITH projection [where]
return: _RETURN projection
create: _CREATE patterns
merge: _MERGE part (on_create | on_match)*
on_create: _ON _CREATE _SET set_item ("," set_item)*
on_match: _ON _MATCH _SET set_item ("," set_item)*
set: _SET set_item ("," set_item)*
remove: _REMOVE remove_item ("," remove_item)*
delete: [DETACH] _DELETE expr ("," expr)*

?where: _WHERE expr

projection: [DISTINCT] items [order] [skip] [limit]
items: (STAR | item) ("," item)*
item: begin expr [_AS name]
begin:
order: _ORDER _BY sort ("," sort)*
sort: expr [ASCENDING | DESCENDING]
?skip: _SKIP expr
?limit: _LIMIT expr

?set_item: name "." name "=" expr -> set_property
    | name "=" expr -> set_all
    | name "+=" expr -> set_more
    | name labels -> set_labels
?remove_item: name "." name -> remove_property
    | name labels -> remove_labels

patterns: part ("," part)*
part: [name "="] nodes (relationship nodes)*
nodes: "(" node ("," node)* ")"
node: [name] [labels] [map | parameter]
relationship: [LEFT] "-" [detail] "-" [RIGHT]
detail: "[" [name] [types] [hops] [map | parameter] "]"
types: ":" name ("|" [":"] name)*
hops: STAR [INTEGER] [upto]
upto: ".." [INTEGER]
labels: (":" name)+

?expr: xor
    | xor (_OR xor)+ -> or_
?xor: and
    | and (_XOR and)+ -> xor_
?and: not
    | not (_AND not)+ -> and_
?not: _NOT not -> not_
    | comparison
?comparison: predicate
    | predicate (comparator predicate)+ -> compare
?comparator: COMPARISON | equals | less | more
!equals: "="
!less: LEFT
!more: RIGHT
?predicate: sum
    | predicate _STARTS _WITH sum -> starts_with
    | predicate _ENDS _WITH sum -> ends_with
    | predicate _CONTAINS sum -> contains
    | predicate _IN sum -> in_
    | predicate _IS _NULL -> is_null
    | predicate _IS _NOT _NULL -> is_not_null
?sum: product
    | product (plus_or_minus product)+ -> arithmetic
!plus_or_minus: "+" | "-"
?product: power
    | power (times power)+ -> arithmetic
!times: STAR | "/" | "%"
?power: sign
    | sign (raised sign)+ -> arithmetic
!raised: "^"
?sign: "-" sign -> negative
    | "+" sign -> positive
    | access
?access: atom
    | access "." name -> property
    | access "[" expr "]" -> index
    | access "[" [expr] ".." [expr] "]" -> slice
    | access labels -> has_labels

?atom: "(" expr ")"
    | _NULL -> null
    | _TRUE -> true
    | _FALSE -> false
    | INTEGER -> integer
    | BASED -> based
    | FLOAT -> float
    | STRING -> string
    | parameter
    | name -> variable
    | name "(" [DISTINCT] [arguments] ")" -> call
    | name "(" STAR ")" -> call_star
    | name "(" expr _WHERE expr ")" -> quantifier
    | _REDUCE "(" name "=" expr "," name _IN expr "|" expr ")" -> reduce
    | "[" [arguments] "]" -> list_
    | "[" expr _WHERE expr ["|" expr] "]" -> comprehension
    | "[" expr "|" expr "]" -> extraction
    | map
    | case
arguments: expr ("," expr)*
map: "{" [entry ("," entry)*] "}"
entry: name ":" expr
case: _CASE [expr] branch+ [otherwise] _END
branch: _WHEN expr _THEN expr
?otherwise: _ELSE expr
parameter: PARAMETER
name: NAME | QUOTED

_AND.2: /and\b/i
_AS.2: /as\b/i
_BY.2: /by\b/i
_CASE.2: /case\b/i
_CONTAINS.2: /contains\b/i
_CREATE.2: /create\b/i
_DELETE.2: /delete\b/i
_ELSE.2: /else\b/i
_END.2: /end\b/i
_ENDS.2: /ends\b/i
_FALSE.2: /false\b/i
_IN.2: /in\b/i
_IS.2: /is\b/i
_LIMIT.2: /limit\b/i
_MATCH.2: /match\b/i
_MERGE.2: /merge\b/i
_NOT.2: /not\b/i
_NULL.2: /null\b/i
_ON.2: /on\b/i
_OR.2: /or\b/i
_ORDER.2: /order\b/i
_REDUCE.2: /reduce(?=\s*\()/i
_REMOVE.2: /remove\b/i
_RETURN.2: /return\b/i
_SET.2: /set\b/i
_SKIP.2: /skip\b/i
_STARTS.2: /starts\b/i
_THEN.2: /then\b/i
_TRUE.2: /true\b/i
_UNWIND.2: /unwind\b/i
_WHEN.2: /when\b/i
_WHERE.2: /where\b/i
_WITH.2: /with\b/i
_XOR.2: /xor\b/i
ASCENDING.2: /asc(ending)?\b/i
DESCENDING.2: /desc(ending)?\b/i
DETACH.2: /detach\b/i
DISTINCT.2: /distinct\b/i
EXPLAIN.2: /explain\b/i
OPTIONAL.2: /optional\b/i

COMPARISON: "<>" | "<=" | ">="
LEFT: "<"
RIGHT: ">"
STAR: "*"
NAME: /[^\W\d]\w*/
QUOTED: /`[^`\x00]+`/
PARAMETER: /\$(\w+|`[^`\x00]+`)/
BASED.1: /0x[0-9a-f]+|0o[0-7]+/i
FLOAT.1: /(\d+\.\d+|\.\d+)(e[+-]?\d+)?|\d+e[+-]?\d+/i
INTEGER: /\d+/
STRING: /'(\\.|[^'\\])*'|"(\\.|[^"\\])*"/s
COMMENT.3: /\/\/[^\n]*|\/\*[^*]*\*+([^\/*][^*]*\*+)*\//
%ignore /\s+/
%ignore COMMENT
"""
