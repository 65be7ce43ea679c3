"""Which program a script's words name, and which files and folders hosts need for it."""

from pathlib import Path

import pytest
from testbed.workloads.script.python_code import decoded_source, encoded_source
from testbed.workloads.script.settings import Script, full_shell_line

from testbed.core.errors import InputError
from testbed.spec.options import RunOptions
from testbed.spec.workload import load_workload


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two scripts."""
    (tmp_path / "prepare.py").write_text("")
    (tmp_path / "my data.txt").write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/train.py").write_text("")
    (tmp_path / "python").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("exec python prepare.py $RANK", "exec python {}/prepare.py $RANK"),
        ("python ./prepare.py", "python {}/prepare.py"),
        ("python {}/prepare.py --x=1", "python {}/prepare.py --x=1"),
        ("python sub/train.py; python prepare.py", "python {}/sub/train.py; python {}/prepare.py"),
        ("cat 'my data.txt'", "cat '{}/my data.txt'"),
        ('cat "my data.txt"', "cat '{}/my data.txt'"),
        ("cat my\\ data.txt", "cat '{}/my data.txt'"),
        ("wc <prepare.py >prepare.py", "wc <{}/prepare.py >prepare.py"),
        ("cd sub && python prepare.py", "cd sub && python {}/prepare.py"),
        ("A=1 python prepare.py|tee log", "A=1 python {}/prepare.py|tee log"),
        ("python missing.py prepare.pyc", "python missing.py prepare.pyc"),
        ('echo "$HOME/prepare.py"', 'echo "$HOME/prepare.py"'),
        ("echo it\\'s prepare.py", "echo it\\'s {}/prepare.py"),
    ],
)
def test_files_in_a_shell_line(folder: Path, line: str, expected: str) -> None:
    full, files = full_shell_line(line.replace("{}", str(folder)))
    assert full == expected.replace("{}", str(folder))
    assert bool(files) == ("{}" in expected)


@pytest.mark.parametrize("shell", ["sh", "/bin/bash", "env A=1 sh"])
@pytest.mark.parametrize("flag", ["-c", "-ec", "-lc"])
def test_a_shell_line_among_the_words(folder: Path, shell: str, flag: str) -> None:
    script = Script(command=[*shell.split(), flag, "python prepare.py", "python sub/train.py"])
    assert script.program().words[-2] == f"python {folder}/prepare.py"
    assert script.program().words[-1] == "python sub/train.py"  # an argument of the line
    assert folder in script.folders()


def test_other_commands_have_no_line(folder: Path) -> None:
    script = Script(command=["tool", "-c", "python prepare.py", "prepare.py"])
    assert script.program().words == ("tool", "-c", "python prepare.py", f"{folder}/prepare.py")


def test_a_linked_script(folder: Path) -> None:
    """The name as written, as Python gives it; modules from the folder where the file is."""
    (folder / "links").mkdir()
    (folder / "links/run.py").symlink_to("../sub/train.py")
    program = Script(command=["links/run.py"]).program()
    assert program.words == (f"{folder}/links/run.py",)
    assert program.folder == folder / "sub"
    assert program.readable == (folder / "links", folder / "sub")


def test_a_script_in_a_linked_folder(folder: Path) -> None:
    (folder / "linked").symlink_to("sub")
    program = Script(command=["linked/train.py"]).program()
    assert program.words == (f"{folder}/linked/train.py",)
    assert program.folder == folder / "sub"


def test_a_readable_link(folder: Path) -> None:
    """Hosts see the folder by the name that was given."""
    (folder / "linked").symlink_to("sub")
    options = RunOptions(readable=(folder / "linked",))
    assert options.readable == (folder / "linked",)


@pytest.mark.parametrize("name", ["two words", "größe-数据", "it's", "a,b", "a:b", 'a"b', "a\\b"])
def test_unusual_names(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "train.py").write_text("")
    program = Script(command=[f"{name}/train.py"]).program()
    assert program.words == (f"{folder}/{name}/train.py",)


@pytest.mark.parametrize("name", ["two\nlines", "tab\there", "not\udcffutf8"])
def test_names_that_hosts_cannot_use(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "train.py").write_text("")
    with pytest.raises(InputError, match="cannot be printed"):
        Script(command=[f"{name}/train.py"])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import os\nos.environ['OMP_NUM_THREADS'] = '2'\nimport torch\n", ["OMP_NUM_THREADS"]),
        ("from os import environ\nenviron.setdefault(\"TORCH_LOGS\", 'x')\n", ["TORCH_LOGS"]),
        ("import os\nos.environ.update(MKL_DYNAMIC='0')\n", ["MKL_DYNAMIC"]),
        ("import os\nos.putenv('KMP_AFFINITY', 'none')\n", ["KMP_AFFINITY"]),
        (
            "import os\nos.environ['MASTER_PORT'] = '1'\nos.environ['GLOO_SOCKET_IFNAME'] = 'x'\n",
            [],
        ),
        ("import os\nrun = os.environ['TORCHELASTIC_RUN_ID']\n", []),
        ("OMP_NUM_THREADS = 1\n", []),
    ],
)
def test_variables_that_a_script_sets_early(folder: Path, text: str, names: list[str]) -> None:
    """Also in the modules next to the script."""
    (folder / "sub/setup.py").write_text(text)
    assert Script(command=["sub/train.py"]).settings(1)["early_variables"] == names


def test_code_and_its_modules(folder: Path) -> None:
    """Modules of the working folder can be imported; the folder is visible only if one is."""
    program = Script(command=["-c", "import os, prepare", "--lr", "1"]).program()
    assert program.kind == "code"
    assert program.words == ("-c", "import os, prepare", "--lr", "1")
    assert program.folder == folder
    assert program.readable == (folder,)
    alone = Script(command=["-c", "from json import loads"])
    assert alone.program().folder is None
    assert not alone.starts_ranks_itself


def test_code_of_standard_input(folder: Path) -> None:
    text = "import os\nos.environ['OMP_NUM_THREADS'] = '2'\nfrom sub import train\n"
    script = Script(command=["-", "--lr", "1"], source=text)
    assert script.program().kind == "input"
    assert script.program().folder == folder
    settings = script.settings(1)
    assert settings["command"] == ["-", "--lr", "1"]
    assert settings["source"] == text
    assert settings["early_variables"] == ["OMP_NUM_THREADS"]


def test_code_in_a_workload_file(folder: Path) -> None:
    """spec.yaml of a run has the code as lines; the file is a workload file."""
    text = "import os\nif 1:\n    print('größe: {}')\n\n# end\n"
    script = Script(command=["-"], source=text)
    assert "  import os\n  if 1:\n      print('größe: {}')\n" in script.to_yaml()
    (folder / "work.yaml").write_text(script.to_yaml())
    assert load_workload("work.yaml") == script


@pytest.mark.parametrize(
    "text", ["\n x\n", "x \ny", "x\n\n\n", "x\ny", "x\n\ty\n  \nz", "null\n", "#\n"]
)
def test_lines_are_read_back(folder: Path, text: str) -> None:
    script = Script(command=["-"], source=text)
    (folder / "work.yaml").write_text(script.to_yaml())
    assert load_workload("work.yaml") == script


@pytest.mark.parametrize(
    "data",
    [
        b"print('gr\xc3\xb6\xc3\x9fe')\r\n",
        b"# coding: latin-1\nprint('gr\xf6\xdfe')\n",
        b"\xef\xbb\xbfprint('gr\xc3\xb6\xc3\x9fe')\n",
    ],
)
def test_encodings_of_standard_input(data: bytes) -> None:
    text = decoded_source(data)
    assert text.endswith("print('größe')\n")
    assert decoded_source(encoded_source(text)) == text
