"""What the other samples know of the records that ./dev up loads: key = package name, value = its stanza."""

from __future__ import annotations

ROUTERS = "127.0.0.1:7450,127.0.0.1:7460"


def parse(stanza: bytes) -> dict[str, str]:
    """The fields of a stanza, without those that go on over several lines."""
    fields = {}
    for line in stanza.decode(errors="replace").splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(" "):
            fields[name] = text.strip()
    return fields


def is_package(row_or_record) -> bool:
    """Other samples may have left other records."""
    return row_or_record.value.startswith(b"Package:")


def section(fields: dict[str, str]) -> str:
    """Without the area: contrib/net is net."""
    return fields.get("Section", "none").rpartition("/")[2]


def dependencies(fields: dict[str, str]) -> set[str]:
    """The packages that it depends on; of alternatives, all."""
    text = ",".join(fields.get(name, "") for name in ("Depends", "Pre-Depends")).replace("|", ",")
    names = {part.split("(")[0].split(":")[0].strip() for part in text.split(",")}
    return names - {""}
