"""Damage to files that are right, drawn by a seeded generator: to their bytes, their JSON, their tables."""

import copy
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

# What nobody expects in the place of a value.
HOSTILE: list[Any] = [
    None, True, False, 0, -0.0, 1, -1, 0.5, 2, 3, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**400, 1e308,
    -1e308, 5e-324, 1e9, float("nan"), float("inf"), -float("inf"), "", " ", "soft", "0.5", "NaN", "null", "[]",
    "a" * 10**5, "\x1b[2J\x1b[31m", "\u202eabc", "\ud800", "\0", "two\nlines", "größe", "🙂", "../../etc/passwd",
    "/dev/zero", "-rf", "%s%n{0}{{", [], {}, [[]], [{}], [None], [0, 0], [1, 2, 3], ["a", "a"], {"": ""},
    {"a": {"b": {}}}, {"low": 0}, {"low": 1, "high": 0}, {"low": -1e308, "high": 1e308},
    {"low": 1e-300, "high": 1e300, "log": True},
]  # fmt: skip

# What is put between bytes.
_TOKENS = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b]0;title\x07", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\",
    b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"-", b"9" * 5000, b"[" * 40, b"[" * 100_000,
    b'{"a":' * 2000,
    b"\n" * 100, b"/*", b"//", b"#", b"'", b"\r\n", b"a" * 100_000, b"\xf0\x9f\x99\x82", b"\xc3\x28", b"\x1f\x8b",
]  # fmt: skip


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Bytes of which some are flipped, lost, doubled, moved, cut off, or others than they were."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3, 8])):
        size = len(data)
        start = draw.randint(0, size)
        end = min(size, start + draw.choice([1, 2, 4, 8, 16, 100, size]))
        match draw.randrange(8):
            case 0 | 1 if size:
                for _ in range(draw.choice([1, 1, 2, 8, 64])):
                    data[draw.randrange(size)] ^= 1 << draw.randrange(8)
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = data[start:end] * draw.choice([1, 2, 5])
            case 4:
                data[start:start] = draw.choice(_TOKENS)
            case 5:
                del data[start:]
            case 6:
                data[start:end] = draw.randbytes(end - start)
            case _:
                place = draw.randint(0, size)
                data[place:place] = data[start:end]
        del data[4_000_000:]
    return bytes(data)


def mutated_json(draw: random.Random, content: Any) -> bytes:
    """JSON text whose values are of other types, extreme, lost, doubled or moved; or bytes that are damaged."""
    if draw.random() < 0.35:
        return damaged(draw, json.dumps(content, indent=draw.choice([None, 2])).encode())
    content = json.loads(json.dumps(content))  # a copy
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        if places := _places(content)[1:]:
            _mutate(draw, content, draw.choice(places))
    text = json.dumps(content, ensure_ascii=draw.random() < 0.7, indent=draw.choice([None, 2]))
    if draw.random() < 0.03:
        text = text.replace("{", '{"margin": 1, "margin": 2, ', 1)
    encodings = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1")
    (encoding,) = draw.choices(encodings, [20, 1, 1, 1, 1, 1])
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf-8") else "replace")


def _places(value: Any) -> list[tuple]:
    """The places of all values in JSON content, from the outermost."""
    found, ahead = [], [((), value)]
    while ahead:
        place, part = ahead.pop()
        found.append(place)
        parts = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        ahead += [((*place, key), inner) for key, inner in parts]
    return found


def _at(content: Any, place: tuple) -> Any:
    for key in place:
        content = content[key]
    return content


def _mutate(draw: random.Random, content: Any, place: tuple) -> None:
    parent, last, value = _at(content, place[:-1]), place[-1], copy.deepcopy(draw.choice(HOSTILE))
    match draw.randrange(9):
        case 0 if isinstance(parent, dict):
            parent[draw.choice(["", "a", "$schema", last + "x", last.upper(), "\x1b[2J", "k" * 10**5])] = value
        case 0:
            parent.insert(last, value)
        case 1:
            del parent[last]
        case 2:
            for _ in range(draw.choice([1, 10, 30, 31, 32, 33, 100])):
                value = draw.choice([[value], {"a": value}])
            parent[last] = value
        case 3:
            parent[last] = json.loads(json.dumps(_at(content, draw.choice(_places(content)))))
        case 4 if isinstance(parent[last], list):
            parent[last] = parent[last] * (draw.choice([2, 100, 5000]) if len(json.dumps(parent[last])) < 100 else 2)
        case 5 if isinstance(parent[last], int | float):
            parent[last] = parent[last] * draw.choice([-1, 10, 1e-3, 1e6, 2**31])
        case 6 if isinstance(parent[last], str):
            parent[last] = draw.choice([parent[last] * 3, parent[last][1:], parent[last].upper(), f" {parent[last]}"])
        case _:
            parent[last] = value


def mutated_database(draw: random.Random, path: Path) -> None:
    """Changes an SQLite database: its bytes, its tables, or the values in them."""
    if draw.random() < 0.4:
        path.write_bytes(damaged(draw, path.read_bytes()))
        return
    database = sqlite3.connect(path, isolation_level=None)
    values = [value for value in HOSTILE if not isinstance(value, list | dict | int) or value in (0, -1, 2**31, 2**62)]
    for _ in range(draw.choice([1, 1, 2, 3])):
        tables = database.execute("select name from sqlite_master where type = 'table' order by name").fetchall()
        (table,) = draw.choice(tables)
        columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
        value = draw.choice([*values, b"\xff\xfe", json.dumps(draw.choice(HOSTILE)), 2**62])
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        try:
            match draw.randrange(10):
                case 0:
                    database.execute(f"drop table {table}")
                case 1:
                    database.execute(f"delete from {table}")
                case 2:
                    database.execute(f"alter table {table} rename column {draw.choice(columns)} to other")
                case 3:
                    database.execute(f"create table other{draw.randrange(10**9)} (a text)")
                case _:
                    where = draw.choice(["1", "rowid = 1", "rowid = 2"])
                    database.execute(f"update {table} set {draw.choice(columns)} = ? where {where}", (value,))
        except sqlite3.Error:  # against a rule of the tables, or one that is gone
            continue
    database.close()
