"""One process or many, as torchrun starts them: who am I, and how the model is shared."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from peft import PeftModel
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from training.data.collate import Batch
from training.errors import TrainingError
from training.train.rank import from_torchrun

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Processes:
    """This process's place among all of them, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def move(self, batch: Batch) -> Batch:
        """The batch on this process's device."""
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def sum(self, value: torch.Tensor) -> float:
        """The sum of every process's scalar."""
        if self.world > 1:
            torch.distributed.all_reduce(value)
        return float(value)

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            torch.distributed.barrier()

    def in_turn(self, work: Callable[[], _Result]) -> _Result:
        """What `work` returns, done by one process after the other."""
        for _ in range(self.rank):
            self.wait()
        result = work()
        for _ in range(self.rank, self.world):
            self.wait()
        return result

    def wrap(self, model: Module, parallel: str) -> Module:
        """`model` ready for many processes: gradients come out averaged over them."""
        if parallel == "fsdp":
            return shard(model)
        model.to(self.device)
        if self.world == 1:
            return model
        return DistributedDataParallel(model)


@contextmanager
def join() -> Iterator[Processes]:
    """The processes of this run, connected while the block lasts."""
    rank, world = from_torchrun("RANK"), from_torchrun("WORLD_SIZE", 1)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", from_torchrun("LOCAL_RANK"))
        torch.cuda.set_device(device)
    if world == 1:
        yield Processes(rank, world, device)
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, device)
    finally:
        torch.distributed.destroy_process_group()


def shard(model: PeftModel) -> Module:
    """Split every weight over the processes (FSDP2); a layer is whole only while it computes.

    Raises TrainingError when the model does not name its layers.
    """
    kinds = set(getattr(model.get_base_model(), "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise TrainingError(
            f"{type(model.get_base_model()).__name__} does not say what its layers are "
            "(_no_split_modules): use parallel=ddp"
        )
    for layer in layers:
        fully_shard(layer)
    sharded: Module = fully_shard(model)
    return sharded


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU, gathered when it is sharded: every process must call this."""
    gather = getattr(tensor, "full_tensor", None)
    return (gather() if gather else tensor).detach().cpu()


def gather(values: Mapping[str, Any], processes: Processes) -> dict[str, Any]:
    """`values` whole and on the CPU, in the first process; nothing in others, which call it too."""
    kept = {}
    for name, value in values.items():
        one = whole(value) if isinstance(value, torch.Tensor) else value
        if processes.first:
            kept[name] = one
    return kept


def assign(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into `target`, which may be this process's share of it."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(
                value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
            )
        target.copy_(value)
