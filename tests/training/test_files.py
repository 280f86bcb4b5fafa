from pathlib import Path

import pytest

from training.errors import TrainingError
from training.files import read_json, write_aside


def test_the_target_appears_only_when_the_block_is_over(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with write_aside(target) as aside:
        (aside / "nested").mkdir(mode=0o700)
        (aside / "nested" / "file").touch(mode=0o600)
        assert not target.exists()
        assert aside.parent == target.parent
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert (target / "nested").stat().st_mode & 0o555 == 0o555
    assert (target / "nested" / "file").stat().st_mode & 0o777 == 0o644


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with write_aside(tmp_path / "model") as aside:
            (aside / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_target_made_by_another_in_the_meantime_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(TrainingError, match="exists already"), write_aside(target):
        target.mkdir()
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_a_killed_run_are_no_obstacle(tmp_path: Path) -> None:
    context = write_aside(tmp_path / "model")
    left = context.__enter__()  # a killed process never exits the block
    with write_aside(tmp_path / "model") as aside:
        assert aside != left
    assert (tmp_path / "model").is_dir()


@pytest.mark.parametrize(
    ("content", "words"), [(b"{", "not valid JSON"), (b"\xff", "not UTF-8"), (b"[]", "object")]
)
def test_json_that_is_no_object_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(TrainingError, match=words):
        read_json(tmp_path / "x.json")
