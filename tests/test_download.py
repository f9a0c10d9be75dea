"""Fetching a file from a real server: whole, cut, resumed, wrong, not there."""

import dataclasses
import errno
import fcntl
import hashlib
import os
import pathlib
import random
import socket

import http_site
import pytest

from darts_dist.data import download
from darts_dist.errors import DataError, InputError, Interrupted, StorageError

CONTENT = random.Random(0).randbytes(3_000_000)
OTHER = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http_site.serve(CONTENT) as site:
        yield site


@pytest.fixture
def remote(site):
    return download.Remote("a.bin", site.url, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def fetch(remote, folder, **settings):
    settings = {"tries": 3, "pause_s": 0, "timeout_s": 20, "say": lambda text: None} | settings
    return download.fetch(remote, folder, **settings)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_alone(site, remote, tmp_path):
    steps = []
    path = fetch(remote, tmp_path / "new" / "folder", report=lambda *step: steps.append(step))
    assert path == tmp_path / "new" / "folder" / "a.bin"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["a.bin"]
    assert (site.asked, site.agents) == ([""], {"darts-dist"})
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))


def test_what_is_there_and_verified_is_not_fetched(site, remote, tmp_path):
    fetch(remote, tmp_path)
    said = []
    assert fetch(remote, tmp_path, say=said.append).read_bytes() == CONTENT
    assert len(site.asked) == 1
    assert "nothing to fetch" in said[0]
    fetch(remote, tmp_path, force=True)
    assert len(site.asked) == 2


@pytest.mark.parametrize("there", [b"mine", OTHER])
def test_another_file_of_that_name_is_only_replaced_by_force(site, remote, tmp_path, there):
    (tmp_path / "a.bin").write_bytes(there)
    with pytest.raises(DataError, match=r"a\.bin is there, .* --force replaces it"):
        fetch(remote, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == there
    assert not site.asked
    assert fetch(remote, tmp_path, force=True).read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_broke(site, remote, tmp_path):
    site.cuts = [1_000_000, 500_000]
    said = []
    assert fetch(remote, tmp_path, say=said.append).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000000-", "bytes=1500000-"]
    assert [text.partition("; ")[2] for text in said] == ["trying again in 0 s"] * 2


def test_a_later_start_goes_on_from_what_was_kept(site, remote, tmp_path):
    site.cuts = [1_000_000]
    with pytest.raises(Interrupted, match=r"cut after 1\.0 MB; 1\.0 MB are kept in .*a\.bin\.part"):
        fetch(remote, tmp_path, tries=1)
    assert names(tmp_path) == ["a.bin.part"]
    moved = dataclasses.replace(remote, url=site.url.replace("/file", "/moved"))
    assert fetch(moved, tmp_path).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000000-", "bytes=1000000-"]
    assert names(tmp_path) == ["a.bin"]


def test_a_server_that_cannot_resume_sends_all_of_it_again(site, remote, tmp_path):
    site.ranges = False
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    said = []
    assert fetch(remote, tmp_path, say=said.append).read_bytes() == CONTENT
    assert site.asked == ["bytes=1000-"]
    assert said[1].endswith("beginning anew")


def test_a_part_longer_than_the_file_is_dropped(site, remote, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert site.asked == ["bytes=3000004-", ""]


@pytest.mark.parametrize("size", [0, len(CONTENT)])
def test_a_part_that_is_already_whole_is_only_verified(site, remote, tmp_path, size):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    steps = []
    whole = fetch(
        dataclasses.replace(remote, size=size), tmp_path, report=lambda *step: steps.append(step)
    )
    assert whole.read_bytes() == CONTENT
    assert not steps


def test_force_forgets_the_part(site, remote, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(OTHER[:1000])
    assert fetch(remote, tmp_path, force=True).read_bytes() == CONTENT
    assert site.asked == [""]


def test_a_file_that_changed_meanwhile_is_one_error_and_a_new_beginning(site, remote, tmp_path):
    site.content, site.cuts = OTHER, [1_000_000]
    with pytest.raises(Interrupted):
        fetch(remote, tmp_path, tries=1)
    site.content = CONTENT
    with pytest.raises(DataError, match=r"not the published file.*kept as .*a\.bin\.bad"):
        fetch(remote, tmp_path)
    assert names(tmp_path) == ["a.bin.bad"]
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


def test_a_page_in_place_of_the_file_does_not_touch_the_part(site, remote, tmp_path):
    site.content, site.ranges = b"<html>log in first</html>", False
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="has 25 bytes, wanted 3000000: not the published file"):
        fetch(remote, tmp_path)
    site.content, site.ranges = CONTENT, True
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert site.asked[1] == "bytes=1000-"


def test_sizes_need_not_be_told(site, remote, tmp_path):
    site.length, site.cuts = False, [2_000_000]
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    unknown = dataclasses.replace(remote, size=0)
    assert fetch(unknown, tmp_path, force=True).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [0, 2_999_999])
def test_more_than_is_wanted_is_not_stored(site, remote, tmp_path, monkeypatch, size):
    site.length = False
    monkeypatch.setattr(download, "LIMIT", 1_000_000)
    with pytest.raises(DataError, match="sends more than"):
        fetch(dataclasses.replace(remote, size=size), tmp_path)
    assert not names(tmp_path)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_will_not_pass_is_bad_input_at_once(site, remote, tmp_path, status):
    site.statuses = [status] * 9
    with pytest.raises(DataError, match=rf"answers {status} .*--url, or .* put it at .*a\.bin"):
        fetch(remote, tmp_path)
    assert len(site.asked) == 1
    assert not names(tmp_path)


def test_a_server_that_stays_broken_is_left_after_some_tries(site, remote, tmp_path):
    site.statuses = [500] * 9
    with pytest.raises(Interrupted, match=r"answers 500 Internal Server Error; nothing came"):
        fetch(remote, tmp_path)
    assert len(site.asked) == 3


def test_a_broken_or_busy_server_is_tried_again_after_longer_and_longer(
    site, remote, tmp_path, monkeypatch
):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    site.statuses = [500, 429, 503, 408]
    assert fetch(remote, tmp_path, tries=5, pause_s=8).read_bytes() == CONTENT
    assert pauses == [8, 16, 30, 30]


def test_tries_are_counted_anew_after_progress(site, remote, tmp_path):
    site.cuts = [1_100_000, 1_100_000]
    assert fetch(remote, tmp_path, tries=2).read_bytes() == CONTENT


def test_a_refused_connection_says_what_to_do(remote, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nobody = dataclasses.replace(remote, url=f"http://127.0.0.1:{port}/file")
    with pytest.raises(Interrupted, match=r"refused; nothing came; start again later .*browser"):
        fetch(nobody, tmp_path)
    assert not names(tmp_path)


def test_a_name_that_is_not_found_may_pass(remote, tmp_path):
    with pytest.raises(Interrupted, match=r"nowhere\.invalid/file cannot be reached"):
        fetch(dataclasses.replace(remote, url="http://nowhere.invalid/file"), tmp_path, tries=1)


def test_a_server_that_falls_silent_is_left(site, remote, tmp_path):
    site.released.clear()
    with pytest.raises(Interrupted, match=r"timed out; [01]\.[0-9] MB are kept"):
        fetch(remote, tmp_path, tries=1, timeout_s=1.5)
    site.released.set()
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url",
    ["", "a.bin", "file:///etc/hostname", "ftp://a/b", "http://", "http://a b/", "http://a:x/",
     "http://a/ü", "http://a/\n", "http://[a/", "http://.a./"],
)  # fmt: skip
def test_what_is_no_address_is_bad_input(remote, tmp_path, url):
    with pytest.raises(InputError, match="is no address"):
        fetch(dataclasses.replace(remote, url=url), tmp_path)


def test_two_do_not_write_one_file(site, remote, tmp_path):
    with open(tmp_path / "a.bin.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is fetching"):
            fetch(remote, tmp_path)
        assert names(tmp_path) == ["a.bin.part"]
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_a_storage_failure(remote, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=f"{os.strerror(errno.ENOSPC)}; what came is kept"):
        fetch(remote, tmp_path)


def test_a_folder_that_is_a_file_is_bad_input_and_one_below_it_a_storage_failure(remote, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="is a file; wanted a folder"):
        fetch(remote, file)
    with pytest.raises(StorageError, match=os.strerror(errno.ENOTDIR)):
        fetch(remote, pathlib.Path(file, "below"))
