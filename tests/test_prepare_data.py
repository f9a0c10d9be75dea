"""The tool that gets data sets: its subcommands from end to end, on servers of this machine."""

import hashlib
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import http_site
import pytest
import test_published
import test_sources

from darts_dist import ending

TOOL = pathlib.Path(__file__).parent.parent / "tools" / "prepare_data.py"
# Shells give background jobs no SIGINT; a limit on the size of files stands for a disk that fills.
START = (
    "import resource, runpy, signal, sys; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); limit = int(sys.argv.pop(1)); "
    "limit and resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
    "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http_site.serve(b"") as site:
        yield site


@pytest.fixture
def tool(capsys):
    """Runs the tool in this process; (exit code, stdout, stderr)."""
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        code = ending.outcome(lambda: module.main([str(one) for one in arguments]))
        return code, *capsys.readouterr()

    return run


def started(*arguments, limit=0):
    """The tool as a process of its own, whose files may have `limit` bytes (0: any)."""
    words = [sys.executable, "-c", START, limit, TOOL, *arguments]
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def offer(site, path):
    """Serves a file; returns the options that fetch it from there."""
    site.content = path.read_bytes()
    return "--url", site.url, "--sha256", hashlib.sha256(site.content).hexdigest()


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_a_fetched_cifar_archive_is_what_the_reader_takes(kind, site, tool, tmp_path):
    mirror = offer(site, test_sources.make_archive(kind, "python", tmp_path))
    out = tmp_path / "data"
    code, said, err = tool("download", kind, out, *mirror)
    assert (code, err) == (0, "")
    name, path = re.fullmatch(r"data\.kind=(\S+) data\.path=(\S+)", said.splitlines()[-1]).groups()
    assert name == kind
    for place in (path, out):
        assert test_sources.load(kind, place, "train").images.shape[1:] == (32, 32, 3)
    code, said, err = tool("download", kind, out, *mirror)
    assert (code, said.count("nothing to fetch"), len(site.asked)) == (0, 1, 1)


def test_the_texts_of_wikitext2_lie_beside_its_archive(site, tool, tmp_path):
    mirror = offer(site, test_published.make_archive(tmp_path / "a.zip"))
    out = tmp_path / "texts"
    code, said, err = tool("download", "wikitext2", out, *mirror)
    assert (code, err) == (0, "")
    assert said.splitlines()[-1] == f"data.kind=text data.path={out}"
    found = test_published.unpacked(out)
    assert found.pop("wikitext-2-v1.zip") == site.content
    assert found == test_published.TEXTS
    (out / "test.txt").unlink()
    assert tool("download", "wikitext2", out, *mirror)[0] == 0
    assert (out / "test.txt").read_bytes() == test_published.TEXTS["test.txt"]
    assert len(site.asked) == 1


def test_a_hostile_archive_of_texts_is_bad_input_in_one_line(site, tool, tmp_path):
    huge = {**test_published.TEXTS, "train.txt": bytes(2**26 + 1)}
    mirror = offer(site, test_published.make_archive(tmp_path / "a.zip", huge))
    code, _, err = tool("download", "wikitext2", tmp_path / "out", *mirror)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "wanted at most" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["wikitext-2-v1.zip"]


def test_the_published_checksum_holds_for_mirrors_too(site, tool, tmp_path):
    site.content = bytes(4_475_746)  # as long as the published file
    code, said, err = tool("download", "wikitext2", tmp_path, "--url", site.url)
    assert (code, said, len(err.splitlines())) == (2, "4.5 of 4.5 MB\n", 1)
    assert "wanted 92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c" in err
    assert [path.name for path in tmp_path.iterdir()] == ["wikitext-2-v1.zip.bad"]


def test_a_terminal_gets_a_bar(site, tool, tmp_path, monkeypatch):
    mirror = offer(site, test_published.make_archive(tmp_path / "a.zip"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    site.statuses = [500]
    code, said, err = tool("download", "wikitext2", tmp_path / "out", *mirror)
    assert code == 0
    assert "100%" in err
    assert "answers 500 Internal Server Error; trying again in 1 s" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["download", "ptb", "out"], "`prepare_data.py instructions ptb` tells how"),
        (["download", "imagenet", "out"], "`prepare_data.py instructions imagenet` tells how"),
        (["download", "mnist", "out"], "mnist is unknown; there are: cifar10, cifar100, wikitext2"),
        (["download", "cifar10"], "required: OUT"),
        (["download", "cifar10", "gs://a/b"], "wanted a folder on this machine"),
        (["download", "cifar10", "out", "--url", "mirror"], "'mirror' is no address"),
        (["download", "cifar10", "out", "--sha256", "c58f"], "is not 64 hexadecimal digits"),
        (["download", "cifar10", "out", "--tries", "0"], "wanted 1 or more"),
        (["instructions", "cifar10"], "invalid choice: 'cifar10'"),
        (["fetch"], "invalid choice: 'fetch'"),
        ([], "required: COMMAND"),
    ],
)
def test_what_cannot_be_is_bad_input_in_one_line(arguments, said, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = tool(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ptb", "imagenet"])
def test_instructions_name_the_source_and_the_layout(name, tool):
    code, out, err = tool("instructions", name)
    assert (code, err) == (0, "")
    wanted = {
        "ptb": ["catalog.ldc.upenn.edu", "OUT/train.txt", "OUT/valid.txt", "OUT/test.txt"],
        "imagenet": ["image-net.org/download.php", "OUT/train/", "OUT/val/", "flat folder"],
    }
    assert [word for word in wanted[name] if word not in out] == []


def test_a_missing_file_and_a_broken_server_have_codes_of_their_own(site, tool, tmp_path):
    for status, wanted in ((404, 2), (500, 75)):
        site.statuses = [status]
        code, out, err = tool("download", "cifar10", tmp_path, "--url", site.url, "--tries", 1)
        assert (code, out, len(err.splitlines())) == (wanted, "", 1)
        assert f"answers {status}" in err


def test_a_disk_that_fills_keeps_what_came(site, tmp_path):
    mirror = offer(site, test_sources.make_archive("cifar10", "python", tmp_path))
    limit = len(site.content) // 2
    with started("download", "cifar10", tmp_path / "out", *mirror, limit=limit) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (5, 1)
    assert "File too large; what came is kept" in err
    part = tmp_path / "out" / "cifar-10-python.tar.gz.part"
    assert part.read_bytes() == site.content[:limit]
    with started("download", "cifar10", tmp_path / "out", *mirror) as process:
        process.communicate(timeout=60)
    assert (process.returncode, site.asked) == (0, ["", f"bytes={limit}-"])


def test_an_interrupt_keeps_what_came_and_says_so(site, tmp_path):
    mirror = offer(site, test_sources.make_archive("cifar10", "python", tmp_path))
    site.content *= 30  # some blocks before the server stops halfway
    mirror = (*mirror[:-1], hashlib.sha256(site.content).hexdigest())
    site.released.clear()
    part = tmp_path / "out" / "cifar-10-python.tar.gz.part"
    with started("download", "cifar10", tmp_path / "out", *mirror) as process:
        until = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (75, 1)
    assert f"kept in {part}; start again to go on" in err
    kept = part.stat().st_size
    assert 0 < kept <= len(site.content) // 2
    site.released.set()
    with started("download", "cifar10", tmp_path / "out", *mirror) as process:
        process.communicate(timeout=60)
    assert (process.returncode, site.asked) == (0, ["", f"bytes={kept}-"])
