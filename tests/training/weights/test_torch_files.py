from pathlib import Path

import pytest
import torch

from training.errors import TrainingError
from training.weights.safetensors_stream import read_floats
from training.weights.torch_files import read_torch_file


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_tensors_read_from_their_place_equal_torch_load(tmp_path: Path) -> None:
    whole = torch.randn(6, 4)
    state = {
        "whole": whole,
        "rows": whole[2:4],  # shares its storage
        "half": torch.randn(3).half(),
        "bf16": torch.randn(2, 2).bfloat16(),
        "scalar": torch.tensor(3.0),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
    }
    torch.save(state, tmp_path / "x.bin")
    stored = read_torch_file(tmp_path / "x.bin")
    assert stored.keys() == state.keys() - {"model.layers.0.self_attn.rotary_emb.inv_freq"}
    for name, tensor in stored.items():
        assert torch.equal(torch.from_numpy(read_floats(tensor)), state[name].float())


def test_files_that_cannot_be_streamed_are_refused_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(value: object, **options: bool) -> str:
        torch.save(value, tmp_path / "x.bin", **options)
        with pytest.raises(TrainingError) as error:
            read_torch_file(tmp_path / "x.bin")
        assert str(tmp_path / "x.bin") in str(error.value)
        return str(error.value)

    assert "more than tensors" in refused({"a": Evil()})
    assert "executed" not in capsys.readouterr().out
    assert "not a state dict" in refused([torch.ones(2)])
    assert "not a state dict" in refused({"a": {"b": torch.ones(2)}})
    assert "make it contiguous" in refused({"a": torch.ones(2, 3).t()})
    assert "make it contiguous" in refused({"a": torch.ones(2, dtype=torch.complex64)})
    assert "before 1.6" in refused({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot read"):
        read_torch_file(tmp_path / "none.bin")
    torch.save({"a": torch.ones(1000)}, tmp_path / "x.bin")
    whole = (tmp_path / "x.bin").read_bytes()
    for content in (whole[:-1], whole[:200], b""):
        (tmp_path / "x.bin").write_bytes(content)
        with pytest.raises(TrainingError, match="not a whole file"):
            read_torch_file(tmp_path / "x.bin")
