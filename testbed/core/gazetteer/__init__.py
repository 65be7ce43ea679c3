"""Find the positions of cities and of regions of clouds.

`SOURCES.md` states where the positions come from.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import NamedTuple

from testbed.core.geo import Location
from testbed.core.units import UnitError

FOLDER = Path(__file__).parent
LARGER = 10  # a city so many times as large as its namesakes needs no country
SHOWN = 5  # namesakes in a message
FORM = (
    "write [degrees north, degrees east], a city such as Zurich, or a region such as aws:us-east-1"
)
PROVIDERS = {"amazon": "aws", "google": "gcp", "microsoft": "azure"}  # other names
COUNTRIES = {"uk": "gb", "usa": "us", "england": "gb", "great britain": "gb", "holland": "nl"}
# Names in other languages, and usual short names, of cities that GeoNames calls otherwise.
CITIES = {
    "bangalore": "bengaluru",
    "bombay": "mumbai",
    "bruxelles": "brussels",
    "calcutta": "kolkata",
    "cologne": "koln",
    "den haag": "the hague",
    "firenze": "florence",
    "frankfurt": "frankfurt am main",
    "geneve": "geneva",
    "genf": "geneva",
    "goeteborg": "goteborg",
    "gothenburg": "goteborg",
    "kiev": "kyiv",
    "kobenhavn": "copenhagen",
    "koeln": "koln",
    "lisboa": "lisbon",
    "madras": "chennai",
    "milano": "milan",
    "moskva": "moscow",
    "muenchen": "munich",
    "munchen": "munich",
    "new york": "new york city",
    "nyc": "new york city",
    "peking": "beijing",
    "praha": "prague",
    "roma": "rome",
    "saigon": "ho chi minh city",
    "torino": "turin",
    "warszawa": "warsaw",
    "washington dc": "washington",
    "wien": "vienna",
    "zuerich": "zurich",
}
STATES = {
    "alabama": "al",
    "alaska": "ak",
    "arizona": "az",
    "arkansas": "ar",
    "california": "ca",
    "colorado": "co",
    "connecticut": "ct",
    "delaware": "de",
    "district of columbia": "dc",
    "florida": "fl",
    "georgia": "ga",
    "hawaii": "hi",
    "idaho": "id",
    "illinois": "il",
    "indiana": "in",
    "iowa": "ia",
    "kansas": "ks",
    "kentucky": "ky",
    "louisiana": "la",
    "maine": "me",
    "maryland": "md",
    "massachusetts": "ma",
    "michigan": "mi",
    "minnesota": "mn",
    "mississippi": "ms",
    "missouri": "mo",
    "montana": "mt",
    "nebraska": "ne",
    "nevada": "nv",
    "new hampshire": "nh",
    "new jersey": "nj",
    "new mexico": "nm",
    "new york": "ny",
    "north carolina": "nc",
    "north dakota": "nd",
    "ohio": "oh",
    "oklahoma": "ok",
    "oregon": "or",
    "pennsylvania": "pa",
    "rhode island": "ri",
    "south carolina": "sc",
    "south dakota": "sd",
    "tennessee": "tn",
    "texas": "tx",
    "utah": "ut",
    "vermont": "vt",
    "virginia": "va",
    "washington": "wa",
    "west virginia": "wv",
    "wisconsin": "wi",
    "wyoming": "wy",
}
# Words of names that are also written in full.
SHORT_WORDS = {"saint": "st", "sankt": "st", "sainte": "ste", "fort": "ft", "mount": "mt"}
_SPECIAL_LETTERS = str.maketrans({"ø": "o", "ł": "l", "ß": "ss", "æ": "ae", "đ": "d", "ı": "i"})


class City(NamedTuple):
    """A city: its name, country, state (in the United States), position and population."""

    name: str
    country: str
    country_name: str
    state: str
    location: Location
    population: int

    @property
    def full_name(self) -> str:
        """The name with the state and country: ``Portland, OR, US``."""
        return ", ".join(part for part in (self.name, self.state, self.country) if part)


def locate(text: str) -> Location:
    """Return the position of a city or of a region of a cloud.

    Args:
        text: A city (``Zurich``), a city with its country or state (``Birmingham, GB``), or a
            region with its provider (``aws:us-east-1``).

    Raises:
        UnitError: The place is unknown, or the city has namesakes; the message names the nearest.
    """
    provider, colon, region = text.partition(":")
    if colon:
        return _region(text, provider.strip().lower(), region.strip().lower())
    return _city(text).location


def _region(text: str, provider: str, region: str) -> Location:
    regions = _regions()
    provider = PROVIDERS.get(provider, provider)
    known: dict[str, Location] = {}
    for (owner, name), place in regions.items():
        if owner == provider:
            known[name] = place

    if not known:
        providers = sorted({owner for owner, _name in regions})
        raise UnitError(f"unknown cloud in {text!r}", f"known: {', '.join(providers)}")
    region = region if region in known else region.replace(" ", "")  # of Azure: East US
    if region not in known:
        near = _nearest(region, list(known))
        raise UnitError(
            f"unknown region {region!r} of {provider}",
            f"nearest: {', '.join(near)}" if near else FORM,
        )
    return known[region]


def _city(text: str) -> City:
    name, *qualifiers = [_folded(part) for part in text.split(",")]
    cities = _cities()
    namesakes = cities.get(CITIES.get(name, name), [])
    if not namesakes:
        near = _nearest(name, list(cities))
        names = [cities[each][0].full_name for each in near]
        remedy = f"nearest: {'; '.join(names)}; or {FORM}" if names else FORM
        raise UnitError(f"unknown place {text!r}", remedy)

    matching = namesakes
    for qualifier in qualifiers:
        matching = [city for city in matching if _is_in(city, qualifier)]
    if not matching:
        raise UnitError(f"unknown place {text!r}", f"known: {_names(namesakes)}")

    largest = max(matching, key=_population)
    others = [city.population for city in matching if city is not largest]
    second = max(others, default=0)
    if largest.population >= LARGER * second:
        return largest
    raise UnitError(f"the city {text!r} is ambiguous", f"write one of: {_names(matching)}")


def _population(city: City) -> int:
    return city.population


def _names(cities: list[City]) -> str:
    return "; ".join(city.full_name for city in cities[:SHOWN])


def _is_in(city: City, qualifier: str) -> bool:
    """Return whether a country or state, as people write it, is that of a city."""
    country = city.country.lower()
    if qualifier in (country, _folded(city.country_name)):
        return True
    if COUNTRIES.get(qualifier) == country:
        return True
    states = (qualifier or "-", STATES.get(qualifier))
    return city.state.lower() in states


def _nearest(name: str, known: list[str]) -> list[str]:
    from rapidfuzz import fuzz, process  # noqa: PLC0415 (0.05 s, for mistakes alone)

    matches = process.extract(name, known, scorer=fuzz.ratio, limit=3, score_cutoff=60)
    return [match for match, _, _ in matches]


def _folded(text: str) -> str:
    """Return a name in lower-case ASCII letters, with single blanks for everything else.

    Words such as ``saint`` are short.
    """
    decomposed = unicodedata.normalize("NFKD", text.lower().translate(_SPECIAL_LETTERS))
    plain = decomposed.encode("ascii", "ignore").decode()
    words = re.sub("[^a-z0-9]+", " ", plain).split()
    return " ".join(SHORT_WORDS.get(word, word) for word in words)


@cache
def _cities() -> dict[str, list[City]]:
    """Return the cities by folded name, the largest first."""
    cities: dict[str, list[City]] = {}
    for cells in _rows("cities.tsv"):
        name, country, country_name, state, north, east, population = cells
        location = (float(north), float(east))
        city = City(name, country, country_name, state, location, int(population))
        cities.setdefault(_folded(name), []).append(city)
    return cities


@cache
def _regions() -> dict[tuple[str, str], Location]:
    """Return the positions of regions, by provider and region."""
    regions: dict[tuple[str, str], Location] = {}
    for provider, region, _, north, east in _rows("clouds.tsv"):
        regions[provider, region] = (float(north), float(east))
    return regions


def _rows(file: str) -> list[list[str]]:
    text = (FOLDER / file).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()[1:]]
