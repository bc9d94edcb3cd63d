"""Loads flow lines into the shipped schema and prints a query's answer.

python query.py SCHEMA FLOWS QUERY [NAME=VALUE ...]
"""

import sys

from chdb.session import Session


def main() -> None:
    schema, flows, query, *parameters = sys.argv[1:]
    session = Session()
    with open(schema, encoding="utf-8") as file:
        for statement in file.read().split(";\n"):
            if statement.strip():
                session.query(statement)
    # Equivalent to `INSERT INTO flows FORMAT JSONEachRow` on a server.
    session.query(
        f"INSERT INTO mailflow.flows SELECT * FROM file('{flows}', JSONEachRow) "
        "SETTINGS date_time_input_format = 'best_effort', "
        "use_structure_from_insertion_table_in_table_functions = 1"
    )
    values = {name: int(value) for name, value in (pair.split("=") for pair in parameters)}
    with open(query, encoding="utf-8") as file:
        print(session.query(file.read(), "JSONEachRow", params=values), end="")


if __name__ == "__main__":
    main()
