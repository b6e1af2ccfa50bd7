"""Where raw clips are looked for: folders, merged or not, archives, and what is wrong with them."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from feeders import DataError
from feeders.ntu.names import get_dataset
from feeders.ntu.sources import Found, find_clips, open_archive

NTU60, NTU120 = get_dataset("ntu60"), get_dataset("ntu120")
NAME = "S001C001P001R001A001"


@pytest.fixture(autouse=True)
def _archives_are_opened_anew():
    open_archive.cache_clear()


def texts(found: Found) -> dict[str, bytes]:
    return {name: places[0].read() for name, places in found.clips.items()}


def put(place: Path, *names: str, text: bytes = b"text") -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / f"{name}.skeleton").write_bytes(text)
    return place


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, text in members.items():
            file.writestr(name, text)
    return path


def test_official_folders_one_merged_folder_and_archives_are_the_same(raw_tree, raw_archives, tmp_path):
    merged = tmp_path / "merged"
    merged.mkdir()
    for file in raw_tree.rglob("*.skeleton"):
        os.link(file, merged / file.name)
    expected = {file.stem: file.read_bytes() for file in raw_tree.rglob("*.skeleton")}
    several = [raw_tree / "nturgb+d_skeletons120", raw_tree / "nturgb+d_skeletons"]
    zips = sorted(raw_archives.glob("*.zip"))
    assert len(zips) == 2
    for raw in ([raw_tree], [merged], several, [raw_archives], zips, [raw_tree / "nturgb+d_skeletons", zips[1]]):
        found = find_clips(raw, NTU120)
        assert texts(found) == expected
        assert list(found.clips) == sorted(expected)
        assert all(len(places) == 1 for places in found.clips.values())
        assert (found.missing, found.foreign, found.bad) == ((), 0, ())


def test_stored_members_are_read_too(tmp_path):
    path = archive(tmp_path / "a.zip", {f"x/y/{NAME}.skeleton": b"text", "readme.txt": b""}, zipfile.ZIP_STORED)
    assert texts(find_clips([path], NTU60)) == {NAME: b"text"}


def test_missing_clips_and_those_of_other_set_ups_are_left_out(tmp_path):
    put(tmp_path, NAME, "S001C002P005R002A008", "S019C002P045R001A075")
    found = find_clips([tmp_path], NTU60)
    assert (list(found.clips), found.missing, found.foreign) == ([NAME], ("S001C002P005R002A008",), 1)


def test_a_clip_in_several_places_has_all_of_them_files_first(tmp_path):
    put(tmp_path / "b", NAME)
    put(tmp_path / "c", NAME)
    path = archive(tmp_path / "a.zip", {f"{NAME}.skeleton": b"text"})
    found = find_clips([tmp_path, tmp_path / "b"], NTU60)
    expected = [*(tmp_path / folder / f"{NAME}.skeleton" for folder in "bc"), f"{path}:{NAME}.skeleton"]
    assert [str(place) for place in found.clips[NAME]] == [*map(str, expected)]


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    put(tmp_path / "a", NAME)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(find_clips([tmp_path], NTU60).clips[NAME]) == 1


def test_names_that_do_not_parse_are_named(tmp_path):
    put(tmp_path, NAME, "S001C001P001R001A01", "notes")
    put(tmp_path, "S001C001P001R001A121")
    bad = {Path(place).name: reason for place, reason in find_clips([tmp_path], NTU120).bad}
    assert list(bad) == ["S001C001P001R001A01.skeleton", "S001C001P001R001A121.skeleton", "notes.skeleton"]
    assert "action 121" in bad["S001C001P001R001A121.skeleton"]


def test_archives_that_cannot_be_read_are_named(tmp_path):
    put(tmp_path, NAME)
    whole = archive(tmp_path / "a.zip", {"x.skeleton": b"text" * 100}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:-30])
    archive(tmp_path / "b.zip", {"readme.txt": b""})
    (tmp_path / "c.zip").write_bytes(b"")
    bad = {Path(place).name: reason for place, reason in find_clips([tmp_path], NTU60).bad}
    assert "not a whole .zip archive" in bad["a.zip"]
    assert "no .skeleton file" in bad["b.zip"]
    assert "not a whole .zip archive" in bad["c.zip"]


def test_a_damaged_archive_that_is_named_does_not_stop_the_good_ones(tmp_path):
    good = archive(tmp_path / "good.zip", {f"{NAME}.skeleton": b"text"})
    (tmp_path / "cut.ZIP").write_bytes(good.read_bytes()[:-30])
    found = find_clips([tmp_path / "cut.ZIP", good], NTU60)
    assert texts(found) == {NAME: b"text"}
    ((place, reason),) = found.bad
    assert place == str(tmp_path / "cut.ZIP")
    assert "not a whole .zip archive" in reason


def test_a_locked_archive_is_not_called_damaged(tmp_path, monkeypatch):
    put(tmp_path, NAME)
    archive(tmp_path / "a.zip", {"x.skeleton": b"text"})

    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zipfile, "ZipFile", locked)
    ((_, reason),) = find_clips([tmp_path], NTU60).bad
    assert reason == "cannot be read (Permission denied)"


def test_a_locked_folder_is_named_and_the_rest_is_found(tmp_path, monkeypatch):
    put(tmp_path / "open", NAME)
    put(tmp_path / "locked", "S001C001P001R001A002")
    scandir = os.scandir

    def scan(place: str):
        if str(place) == str(tmp_path / "locked"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scan)
    found = find_clips([tmp_path], NTU60)
    assert list(found.clips) == [NAME]
    assert found.bad == ((str(tmp_path / "locked"), "cannot be read (Permission denied)"),)


def test_a_locked_root_is_refused(tmp_path, monkeypatch):
    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    for target in ("os.listdir", "pathlib.Path.is_file"):
        with monkeypatch.context() as patch:
            patch.setattr(target, locked)
            with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)") as caught:
                find_clips([tmp_path], NTU60)
        assert str(caught.value).startswith(str(tmp_path))


def test_what_is_named_like_a_clip_and_is_no_file_is_named(tmp_path):
    put(tmp_path, NAME)
    (tmp_path / "gone.skeleton").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.SKELETON").symlink_to(tmp_path / "loop.SKELETON")
    os.mkfifo(tmp_path / "pipe.skeleton")
    put(tmp_path / "folder.skeleton", "S001C001P001R001A002")
    found = find_clips([tmp_path], NTU60)
    assert list(found.clips) == [NAME, "S001C001P001R001A002"]
    reasons = {Path(place).name: reason for place, reason in found.bad}
    assert list(reasons) == ["folder.skeleton", "gone.skeleton", "loop.SKELETON", "pipe.skeleton"]
    for name, reason in (("folder", "a folder"), ("gone", "a link to nothing"), ("pipe", "not a plain file")):
        assert reason in reasons[f"{name}.skeleton"]


def test_upper_case_endings_are_clips(tmp_path):
    (tmp_path / f"{NAME}.SKELETON").write_bytes(b"text")
    archive(tmp_path / "a.zip", {"S001C001P001R001A002.Skeleton": b"other"})
    assert texts(find_clips([tmp_path], NTU60)) == {NAME: b"text", "S001C001P001R001A002": b"other"}


@pytest.mark.parametrize("place", ["header", "content"])
def test_a_damaged_member_is_told_when_it_is_read(tmp_path, place):
    path = archive(tmp_path / "a.zip", {f"{NAME}.skeleton": os.urandom(200).hex().encode()})
    content = bytearray(path.read_bytes())
    content[0 if place == "header" else 100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        find_clips([path], NTU60).clips[NAME][0].read()


def test_encrypted_and_oddly_packed_members_are_refused(tmp_path):
    path = archive(tmp_path / "a.zip", {f"{NAME}.skeleton": b"text" * 100}, zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match="method 14"):
        find_clips([path], NTU60).clips[NAME][0].read()
    content = bytearray(archive(tmp_path / "b.zip", {f"{NAME}.skeleton": b"text" * 100}).read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        find_clips([tmp_path / "b.zip"], NTU60).clips[NAME][0].read()


def test_a_file_larger_than_any_clip_is_not_read(tmp_path):
    put(tmp_path, NAME)
    with (tmp_path / f"{NAME}.skeleton").open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(DataError, match="more than 16,777,216 bytes"):
        find_clips([tmp_path], NTU60).clips[NAME][0].read()


def test_a_bomb_in_an_archive_is_unpacked_no_further_than_a_clip_can_be(tmp_path):
    path = archive(tmp_path / "a.zip", {f"{NAME}.skeleton": bytes(2**28)})
    assert path.stat().st_size < 2**19
    (place,) = find_clips([path], NTU60).clips[NAME]
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than 16,777,216 bytes"):
            place.read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26


@pytest.mark.parametrize("offset", [2**40, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_member_at_a_place_that_no_file_has_is_one_bad_file(tmp_path, offset):
    path = archive(tmp_path / "a.zip", {f"{NAME}.skeleton": b"text", "S001C001P001R001A002.skeleton": b"other"})
    content = path.read_bytes()
    entry = content.index(b"PK\1\2")
    name = f"{NAME}.skeleton".encode()
    end = entry + 46 + len(name)
    extra = struct.pack("<HHQ", 1, 8, offset)
    directory = bytearray(content[entry:end])
    directory[30:32] = struct.pack("<H", len(extra))
    directory[42:46] = b"\xff" * 4
    changed = bytearray(content[:entry] + directory + extra + content[end:])
    place = changed.rindex(b"PK\5\6") + 12
    changed[place : place + 4] = struct.pack("<I", struct.unpack("<I", changed[place : place + 4])[0] + len(extra))
    path.write_bytes(changed)
    found = find_clips([path], NTU60)
    with pytest.raises(DataError, match="its archive is damaged there") as caught:
        found.clips[NAME][0].read()
    assert "\n" not in str(caught.value)
    assert found.clips["S001C001P001R001A002"][0].read() == b"other"


def test_a_file_that_vanished_is_told(tmp_path):
    (place,) = find_clips([put(tmp_path, NAME)], NTU60).clips[NAME]
    Path(place.path).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        place.read()


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="not there"):
        find_clips([tmp_path / "nowhere"], NTU60)
    with pytest.raises(DataError, match=r"no \.skeleton file, no \.zip archive"):
        find_clips([tmp_path], NTU60)
    put(tmp_path, "S019C002P045R001A075", "x")
    with pytest.raises(DataError, match=r"1 place cannot be used.*x\.skeleton.*1 clip of another data set"):
        find_clips([tmp_path], NTU60)
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(DataError, match="neither a folder nor"):
        find_clips([tmp_path / "text.txt"], NTU60)
