"""The same job on the host's clock: it runs, and says whether the CPU was the limit. Its times are not tested."""

from pathlib import Path

from runs import Command, Folder, all_reduce


def test_real_clock(command: Command, pair: Path, tmp_path: Path) -> None:
    job = all_reduce("4 KiB, 64 KiB", iterations=5)
    out = tmp_path / "run"
    command("run", pair, "collectives", *job, "--clock", "real", "--isolation", "process", "--out", out)
    folder = Folder(out)
    status = folder.status
    assert status["state"] == "completed"
    assert isinstance(status["faithful"], bool)
    assert bool(status["warnings"]) != status["faithful"]  # what is not faithful says why
    assert [row["wrong"] for row in folder.summary["collectives"]] == [0, 0]
    assert folder.json("plan.json")["clock"] == "real"
