"""Validates event lines with the published schemas; prints one fault per line.

    schemas.py ocsf FILE...
    schemas.py ecs ECS_FLAT_JSON FILE...
"""

import ipaddress
import json
import re
import sys


def lines(files):
    for file in files:
        with open(file, encoding="utf-8") as text:
            for number, line in enumerate(text, 1):
                yield f"{file}:{number}", json.loads(line)


def ocsf(files):
    import jsonschema
    import ocsf_json_schema as package

    made = {}
    for place, event in lines(files):
        version, uid = event["metadata"]["version"], event["class_uid"]
        profiles = event["metadata"].get("profiles", [])
        key = (version, uid, *profiles)
        if key not in made:
            embedded = package.OcsfJsonSchemaEmbedded(package.get_ocsf_schema(version=version))
            names = {entry["uid"]: name for name, entry in embedded.schema.schema["classes"].items()}
            schema = embedded.get_class_schema(names[uid], profiles)
            made[key] = jsonschema.Draft202012Validator(schema)
        for error in made[key].iter_errors(event):
            yield f"{place}: {error.json_path}: {error.message[:300]}"
        if event["type_uid"] != uid * 100 + event["activity_id"]:
            yield f"{place}: type_uid {event['type_uid']}"


def is_date(value):
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value) is not None


def is_ip(value):
    try:
        ipaddress.ip_address(value)
        return True
    except ValueError:
        return False


KINDS = {
    "keyword": lambda value: isinstance(value, str),
    "constant_keyword": lambda value: isinstance(value, str),
    "match_only_text": lambda value: isinstance(value, str),
    "wildcard": lambda value: isinstance(value, str),
    "ip": lambda value: isinstance(value, str) and is_ip(value),
    "date": lambda value: isinstance(value, str) and is_date(value),
    "long": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
}


def leaves(flat, value, path):
    """Yields path, schema field and value of each leaf; the field is None if the schema lacks it."""
    field = flat.get(path)
    if field is not None and not (field["type"] == "object" and path != "labels"):
        yield path, field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(flat, inner, f"{path}.{name}" if path else name)
    else:
        yield path, None, value


def ecs(flat_file, files):
    with open(flat_file, encoding="utf-8") as text:
        flat = json.load(text)
    # Custom fields are below a top-level name that the schema must not have.
    assert not any(name.split(".")[0] == "mailflow" for name in flat)
    for place, event in lines(files):
        own = event.pop("mailflow", None)
        if not isinstance(own, dict):
            yield f"{place}: nothing under mailflow"
        found = {}
        for path, field, value in leaves(flat, event, ""):
            if field is None:
                yield f"{place}: {path}: the schema has no such field"
                continue
            found[path] = value
            is_array = isinstance(value, list)
            if is_array != ("array" in field["normalize"]):
                yield f"{place}: {path}: {'an array' if is_array else 'no array'}"
            values = value if is_array else [value]
            for one in values:
                if not KINDS[field["type"]](one):
                    yield f"{place}: {path}: {one!r} is no {field['type']}"
                allowed = [entry["name"] for entry in field.get("allowed_values", [])]
                if allowed and one not in allowed:
                    yield f"{place}: {path}: {one!r} is none of {allowed}"
                if field["type"] == "keyword" and len(str(one)) > field.get("ignore_above", 1024):
                    yield f"{place}: {path}: longer than is indexed"
                pattern = field.get("pattern")
                if pattern and not re.match(pattern, str(one)):
                    yield f"{place}: {path}: {one!r} is not like {pattern}"
        for needed in (path for path, field in flat.items() if field.get("required")):
            if needed not in found:
                yield f"{place}: {needed} is required"
        # Event types that a category allows.
        types = {
            entry["name"]: entry.get("expected_event_types", [])
            for entry in flat["event.category"]["allowed_values"]
        }
        for category in found.get("event.category", []):
            for kind in found.get("event.type", []):
                if kind not in types.get(category, []):
                    yield f"{place}: event.type {kind} does not go with event.category {category}"


kind, *rest = sys.argv[1:]
faults = list(ocsf(rest) if kind == "ocsf" else ecs(rest[0], rest[1:]))
print("\n".join(faults))
sys.exit(1 if faults else 0)
