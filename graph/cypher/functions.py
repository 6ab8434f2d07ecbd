"""Functions of one row. Each is listed with how many arguments it takes; null in, null out, but
for those that ask about null.

Functions of text are in `text_functions`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from graph.cypher.arithmetic import (
    INTEGER_MAX,
    INTEGER_MIN,
    checked,
    in_text,
    spend_on_list,
)
from graph.cypher.elements import labels_of, properties_of
from graph.cypher.runtime import Runtime
from graph.cypher.text_functions import TEXT_FUNCTIONS
from graph.cypher.values import Evaluate, Path, Row, is_number, kind
from graph.errors import BadQuery
from graph.model import Arc, Node
from graph.state import EdgeEntry

Function = Callable[..., Any]
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_TEXT_MAX: Final = 400
"""Characters of what is read as a number."""


def function(name: str, arguments: Sequence[Evaluate], run: Runtime) -> Evaluate:
    """Compile a call."""
    if name in _WITH_NULL:
        return _WITH_NULL[name](list(arguments))
    if name not in _FUNCTIONS:
        raise BadQuery(f"there is no function {name}()")
    least, most, call = _FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        counts = f"{least}" if least == most else f"{least} to {most}"
        raise BadQuery(f"{name}() takes {counts} arguments, not {len(arguments)}")
    if len(arguments) == 1:
        return _of_one(call, arguments[0], run)

    def evaluate(row: Row) -> Any:
        values = [argument(row) for argument in arguments]
        return None if None in values else call(run, *values)

    return evaluate


def _of_one(call: Function, argument: Evaluate, run: Runtime) -> Evaluate:
    def evaluate(row: Row) -> Any:
        value = argument(row)
        return None if value is None else call(run, value)

    return evaluate


def _coalesce(arguments: list[Evaluate]) -> Evaluate:
    def evaluate(row: Row) -> Any:
        for argument in arguments:
            value = argument(row)
            if value is not None:
                return value
        return None

    return evaluate


def _exists(arguments: list[Evaluate]) -> Evaluate:
    if len(arguments) != 1:
        raise BadQuery("exists() takes one argument")
    (argument,) = arguments
    return lambda row: argument(row) is not None


_WITH_NULL: Final = {"coalesce": _coalesce, "exists": _exists}


def _refuse(name: str, value: Any) -> BadQuery:
    return BadQuery(f"{name}() does not take {kind(value)}")


def _length(run: Runtime, value: Any) -> int:
    if isinstance(value, Path):
        return len(value.arcs)
    return _size(run, value)


def _size(_run: Runtime, value: Any) -> int:
    if type(value) in (list, str, dict):
        return len(value)
    raise _refuse("size", value)


def _nodes(run: Runtime, value: Any) -> list[Node]:
    if isinstance(value, Path):
        spend_on_list(len(value.nodes), run.spend)
        return list(value.nodes)
    raise _refuse("nodes", value)


def _relationships(run: Runtime, value: Any) -> list[Arc]:
    if isinstance(value, Path):
        spend_on_list(len(value.arcs), run.spend)
        return list(value.arcs)
    raise _refuse("relationships", value)


def _id(_run: Runtime, value: Any) -> str:
    if isinstance(value, Node):
        return value.id
    if isinstance(value, Arc | EdgeEntry):
        return value.edge.id
    raise _refuse("id", value)


def _labels(run: Runtime, value: Any) -> list[str]:
    if isinstance(value, Node):
        return list(labels_of(run, value))
    raise _refuse("labels", value)


def _type(_run: Runtime, value: Any) -> str:
    if isinstance(value, Arc | EdgeEntry):
        return value.edge.label
    raise _refuse("type", value)


def _end(name: str) -> Function:
    def end(run: Runtime, value: Any) -> Node:
        if isinstance(value, Arc):
            arc = run.current(value)
            return run.state.node(arc.source if name == "startNode" else arc.target)
        raise _refuse(name, value)

    return end


def _keys(run: Runtime, value: Any) -> list[str]:
    return list(properties_of(run, value))


def _properties(run: Runtime, value: Any) -> dict[str, Any]:
    return properties_of(run, value)


def _head(_run: Runtime, value: Any) -> Any:
    if type(value) is list:
        return value[0] if value else None
    raise _refuse("head", value)


def _last(_run: Runtime, value: Any) -> Any:
    if type(value) is list:
        return value[-1] if value else None
    raise _refuse("last", value)


def _tail(run: Runtime, value: Any) -> Any:
    if type(value) is list:
        spend_on_list(len(value), run.spend)
        return value[1:]
    raise _refuse("tail", value)


def _reverse(run: Runtime, value: Any) -> Any:
    if type(value) in (list, str):
        spend_on_list(len(value), run.spend)
        return value[::-1]
    raise _refuse("reverse", value)


def _range(run: Runtime, first: Any, last: Any, step: Any = 1) -> list[int]:
    if any(type(each) is not int for each in (first, last, step)) or step == 0:
        raise BadQuery("range() takes integers, and a step that is not 0")
    numbers = range(first, last + (1 if step > 0 else -1), step)
    count = max(0, (last - first) // step + 1)
    spend_on_list(count, run.spend)
    run.spend(count)
    return list(numbers)


def _to_integer(run: Runtime, value: Any) -> int | None:
    if type(value) is int:
        return value
    number = _to_float(run, value) if type(value) is not bool else float(value)
    if type(value) is str and number is not None and value.strip().lstrip("+-").isdigit():
        exact = int(value)
        return exact if INTEGER_MIN <= exact <= INTEGER_MAX else None
    if number is None or not -(2.0**63) <= number < 2.0**63:
        return None
    return int(number)


def _to_float(_run: Runtime, value: Any) -> float | None:
    if is_number(value):
        return float(value)
    if type(value) is not str:
        raise BadQuery(f"{kind(value)} is not turned into a number")
    return float(value) if len(value) <= _TEXT_MAX and _NUMBER.fullmatch(value) else None


def _to_string(_run: Runtime, value: Any) -> str:
    if is_number(value) or type(value) in (str, bool):
        return in_text(value)
    raise _refuse("toString", value)


def _to_boolean(_run: Runtime, value: Any) -> bool | None:
    if type(value) is str:
        return {"true": True, "false": False}.get(value.strip().lower()[:8])
    if type(value) is bool:
        return value
    raise _refuse("toBoolean", value)


def _number(name: str, call: Callable[[Any], Any]) -> Function:
    def numeric(_run: Runtime, value: Any) -> Any:
        if is_number(value):
            return call(value)
        raise _refuse(name, value)

    return numeric


def _abs(value: Any) -> Any:
    return checked(abs(value)) if type(value) is int else abs(value)


def _rounded(call: Callable[[float], float]) -> Callable[[Any], float]:
    return lambda value: float(call(value)) if math.isfinite(value) else value


def _round(_run: Runtime, value: Any, digits: Any = 0) -> float:
    if not is_number(value) or type(digits) is not int or not 0 <= digits <= 15:
        raise BadQuery("round() takes a number and how many digits to keep, 0 to 15")
    scaled = value * 10.0**digits
    return math.floor(scaled + 0.5) / 10.0**digits if math.isfinite(scaled) else float(value)


def _sign(value: Any) -> int:
    return int(value > 0) - int(value < 0)


def _sqrt(value: Any) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _timestamp(run: Runtime) -> int:
    return run.context.now_ms


_FUNCTIONS: Final[dict[str, tuple[int, int, Function]]] = {
    "abs": (1, 1, _number("abs", _abs)),
    "ceil": (1, 1, _number("ceil", _rounded(math.ceil))),
    "endnode": (1, 1, _end("endNode")),
    "floor": (1, 1, _number("floor", _rounded(math.floor))),
    "head": (1, 1, _head),
    "id": (1, 1, _id),
    "keys": (1, 1, _keys),
    "labels": (1, 1, _labels),
    "last": (1, 1, _last),
    "length": (1, 1, _length),
    "nodes": (1, 1, _nodes),
    "properties": (1, 1, _properties),
    "range": (2, 3, _range),
    "relationships": (1, 1, _relationships),
    "reverse": (1, 1, _reverse),
    "round": (1, 2, _round),
    "sign": (1, 1, _number("sign", _sign)),
    "size": (1, 1, _size),
    "sqrt": (1, 1, _number("sqrt", _sqrt)),
    "startnode": (1, 1, _end("startNode")),
    "tail": (1, 1, _tail),
    "timestamp": (0, 0, _timestamp),
    "toboolean": (1, 1, _to_boolean),
    "tofloat": (1, 1, _to_float),
    "tointeger": (1, 1, _to_integer),
    "tostring": (1, 1, _to_string),
    "type": (1, 1, _type),
    **TEXT_FUNCTIONS,
}
"""Name -> fewest and most arguments, and what is called with the runtime and their values."""
