"""A question, three runs and a figure: how does an all-reduce of 1 MiB depend on the distance?

A marimo notebook: open it with ``marimo edit examples/first_question.py``, or run the file as a
script: ``python examples/first_question.py`` writes the figure to ``results/first-question.html``.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def question():
    import marimo as mo

    mo.md(
        """
        # How does an all-reduce of 1 MiB depend on the distance?

        Two hosts add up 1 MiB of gradients over a link of 10 Gbit/s. Light in a fibre takes
        4.9 µs per kilometre. Does the time of the all-reduce depend on the number of bytes, or
        on the distance?
        """
    )
    return (mo,)


@app.cell
def settings():
    US_PER_KM = 4.9  # propagation time of light in fibre
    DISTANCES_KM = [100, 1000, 6000]
    SIZE = "1 MiB"
    return DISTANCES_KM, SIZE, US_PER_KM


@app.cell
def runs(DISTANCES_KM, SIZE, US_PER_KM):
    import polars as pl

    import testbed

    def measure(distance_km):
        """Run the all-reduce at a distance, and return a row of the table."""
        delay_us = distance_km * US_PER_KM
        topology = testbed.Topology(
            name="pair",
            datacenters={"west": testbed.Datacenter(hosts=1), "east": testbed.Datacenter(hosts=1)},
            wan=[
                testbed.Wan(between=("west", "east"), rate="10 Gbit/s", delay=f"{delay_us:.0f} us")
            ],
        )
        workload = {"ops": ["all_reduce"], "sizes": [SIZE], "iterations": 5}
        run = testbed.run(
            topology,
            "collectives",
            isolation="process",
            settings={f"workload.{key}": value for key, value in workload.items()},
        )
        row = run.collectives.row(0, named=True)
        return {
            "distance_km": distance_km,
            "rtt_ms": 2 * delay_us / 1000,
            "time_ms": row["time_us"] / 1000,
            "bound_ms": row["bound_us"] / 1000,
        }

    table = pl.DataFrame([measure(distance_km) for distance_km in DISTANCES_KM])
    table
    return (table,)


@app.cell
def figure(SIZE, table):
    import plotly.graph_objects as go

    figure = go.Figure()
    x = table["distance_km"].to_list()
    for column, name in {"time_ms": "measured", "bound_ms": "bound", "rtt_ms": "RTT"}.items():
        figure.add_scatter(x=x, y=table[column].to_list(), name=name, mode="lines+markers")
    figure.update_layout(
        title=f"All-reduce of {SIZE} between two datacenters, 10 Gbit/s",
        xaxis_title="distance (km)",
        yaxis_title="time (ms)",
    )
    figure
    return (figure,)


@app.cell
def answer(mo, table):
    far = table.row(-1, named=True)
    round_trips = far["time_ms"] / far["rtt_ms"]
    sentence = (
        f"The distance dominates: at {far['distance_km']} km the all-reduce takes "
        f"{far['time_ms']:.0f} ms, {round_trips:.1f} round trips. The bytes alone would take 2 ms."
    )
    mo.md(sentence)
    return (sentence,)


@app.cell
def save(figure):
    from pathlib import Path

    page = Path("results/first-question.html")
    page.parent.mkdir(exist_ok=True)
    figure.write_html(page)
    return (page,)


if __name__ == "__main__":
    app.run()
