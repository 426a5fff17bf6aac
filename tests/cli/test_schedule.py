"""What `schedule` prints, read by the real tools where they are, for the worst of directories."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tcgamirror.cli.schedule import Night, cron, escape_for_cron, systemd
from tcgamirror.model.errors import UsageError
from tests.gdc import StandIn
from tests.support.command import inside, program, succeeded, surroundings, went_well
from tests.support.mirrors import column, contents, made

AWKWARD = "100% of 'my' \"µ\" $HOME `slides` & \\% \\\\% ;#ünï"
NIGHT = Night(("/opt/a b/tcgamirror",), f"/data/{AWKWARD}", 2, 15)
WORDS = [*NIGHT.program, "--mirror", NIGHT.mirror, "update", "--log"]


@pytest.fixture
def awkward(tmp_path: Path, small_gdc: StandIn) -> Path:
    return made(tmp_path / AWKWARD, small_gdc, slides=1)


def as_cron_reads(command: str) -> str:
    """The command cron gives to the shell, by Vixie cron's rules: up to the first bare %."""
    shown: list[str] = []
    escaped = False
    for letter in command:
        if escaped and letter == "%":
            shown.pop()
        elif letter == "%":
            break
        escaped = letter == "\\" and not escaped
        shown.append(letter)
    return "".join(shown)


def as_systemd_reads(line: str) -> list[str]:
    """The words of ExecStart=, all of them within double quotes."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    plain = [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in words]
    return [plain[0], *(word.replace("$$", "$") for word in plain[1:])]


def test_cron_runs_the_command_whatever_the_path() -> None:
    line = cron(NIGHT).splitlines()[1]
    assert line.startswith("15 2 * * * ")
    command = as_cron_reads(line.removeprefix("15 2 * * * "))
    words = shlex.split(command)
    assert words[:5] == WORDS
    assert words[-3:] == [">>", f"{NIGHT.mirror}/nightly.log", "2>&1"]


@pytest.mark.parametrize("word", ["a%b", "%", "a\\%", "\\\\%", "'%'", "\\'%\\", "%%\\%"])
def test_cron_and_the_shell_give_every_word_back(word: str) -> None:
    command = as_cron_reads(
        escape_for_cron(f"printf %s {shlex.quote(word)}".replace("%s", "x%", 1))
    )
    assert shlex.split(command)[-1] == word


def test_systemd_reads_the_command_whatever_the_path() -> None:
    (line,) = [line for line in systemd(NIGHT).splitlines() if line.startswith("ExecStart=")]
    assert as_systemd_reads(line)[:5] == WORDS


def test_a_command_too_long_for_cron_is_refused() -> None:
    with pytest.raises(UsageError, match="cron: the command has"):
        cron(Night(("a",), "/data/" + "long/" * 200, 2, 15))


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("cron", ["\n5 23 * * * "]),
        (
            "systemd",
            ["\nSuccessExitStatus=5\n", "Persistent=true", "RandomizedDelaySec=", "*-*-* 23:05:00"],
        ),
        ("slurm", ["begin=23:05", '"$code" -eq 5']),
    ],
)
def test_schedule_prints_for_this_mirror_and_changes_nothing(
    awkward: Path, system: str, words: list[str]
) -> None:
    before = contents(awkward)
    out = went_well("--mirror", awkward, "schedule", system, "--time", "23:05").out
    assert [word for word in words if word not in out] == []
    assert contents(awkward) == before


def test_the_cron_line_really_updates_the_mirror(awkward: Path) -> None:
    line = succeeded("--mirror", awkward, "schedule", "cron").out.splitlines()[1]
    command = as_cron_reads(line.removeprefix("15 2 * * * "))
    # The words that start the program are absolute.
    assert shlex.split(command)[: len(program())] == program()
    subprocess.run(["sh", "-c", command], env=surroundings(), cwd="/", check=True, timeout=60)
    assert column(awkward, "select status from mirror") == ["done"]
    assert "1 slide fetched" in (awkward / "nightly.log").read_text()
    last = (awkward / "nightly.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["exit_code"] == 0


@pytest.mark.parametrize("options", [(), ("--array", "16%4", "--account", "lab-1")])
def test_the_slurm_script_is_sound_whatever_the_path(
    awkward: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    script = tmp_path / "night.sbatch"
    script.write_text(succeeded("--mirror", awkward, "schedule", "slurm", *options).out)
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", script], check=True)
    head, _, _ = script.read_text().partition("\n\n")
    assert [line for line in head.splitlines() if not line.startswith("#")] == []


def test_one_slurm_job_updates_and_submits_itself(awkward: Path, tmp_path: Path) -> None:
    script = tmp_path / "night.sbatch"
    script.write_text(succeeded("--mirror", awkward, "schedule", "slurm").out)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "squeue"):
        (tools / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}\n')
        (tools / name).chmod(0o755)
    env = surroundings({"PATH": f"{tools}:{os.environ['PATH']}"})
    subprocess.run(["bash", script], env=env, cwd="/", check=True, timeout=60)
    submitted = (tmp_path / "sbatch").read_text().splitlines()
    assert submitted == ["--begin=02:15", "--dependency=singleton", str(script)]
    assert column(awkward, "select status from mirror") == ["done"]


@pytest.mark.parametrize(
    ("system", "option", "value"),
    [
        ("slurm", "--partition", "a\n#SBATCH --wrap=evil"),
        ("slurm", "--partition", ""),
        ("slurm", "--account", "a b"),
        ("slurm", "--account", "$(id)"),
        ("slurm", "--array", "0"),
        ("slurm", "--array", "4%0"),
        ("slurm", "--array", "1-16"),
        ("slurm", "--array", "4%"),
        ("slurm", "--time-limit", "8:00:00"),
        *(("cron", "--time", time) for time in ("24:00", "2", "02:60", "0２:15", "", "8:00:00")),
        ("cron", "--array", "4"),
        ("systemd", "--time-limit", "2h"),
    ],
)
def test_options_that_no_job_can_have_are_refused(
    awkward: Path, system: str, option: str, value: str
) -> None:
    result = inside("--mirror", awkward, "schedule", system, option, value)
    assert (result.code, result.out) == (2, "")
    assert option in result.sentence


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_takes_the_units(awkward: Path, tmp_path: Path) -> None:
    out = succeeded("--mirror", awkward, "schedule", "systemd").out
    parts = re.split(r"^# ---- (\S+)\n", out, flags=re.MULTILINE)
    names = parts[1::2]
    for name, text in zip(names, parts[2::2], strict=True):
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in names]
    command = ["systemd-analyze", "verify", "--man=no", *paths]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    own = [line for line in checked.stderr.splitlines() if "tcgamirror" in line]
    assert not own and [Path(name).suffix for name in names] == [".service", ".timer"]


def test_crontab_takes_the_line(awkward: Path, tmp_path: Path) -> None:
    crontab = shutil.which("crontab")
    if (
        crontab is None
        or "-n"
        not in subprocess.run([crontab, "-h"], capture_output=True, text=True, check=False).stderr
    ):
        pytest.skip("no crontab here that can check a file")
    table = tmp_path / "table"
    table.write_text(succeeded("--mirror", awkward, "schedule", "cron").out)
    subprocess.run([crontab, "-n", table], check=True, capture_output=True)
