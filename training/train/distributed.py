"""One process or many, as torchrun starts them: who am I, and how the model is shared."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.dataset.collate import Batch
from training.errors import TrainingError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Processes:
    """This process's place among all of them, and its device."""

    rank: int
    world: int
    device: "torch.device"

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def move(self, batch: Batch) -> Batch:
        """The batch on this process's device."""
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def sum(self, value: "torch.Tensor") -> float:
        """The sum of every process's scalar."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.all_reduce(value)
        return float(value)

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier()

    def wrap(self, model: Any, parallel: str) -> Any:
        """`model` ready for many processes: gradients come out averaged over them."""
        if parallel == "fsdp":
            return shard(model)
        model.to(self.device)
        if self.world == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model)


def _environment(name: str, default: int = 0) -> int:
    """A number that torchrun tells in the environment."""
    return int(os.environ.get(name, default))


def is_first() -> bool:
    """Whether this is the first of all processes, known before they are connected."""
    return _environment("RANK") == 0


def node_first() -> bool:
    """Whether this is the first process of its machine, which tells that machine's errors."""
    return _environment("LOCAL_RANK") == 0


@contextmanager
def join() -> Iterator[Processes]:
    """The processes of this run, connected while the block lasts."""
    import torch

    rank, world = _environment("RANK"), _environment("WORLD_SIZE", 1)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _environment("LOCAL_RANK"))
        torch.cuda.set_device(device)
    if world == 1:
        yield Processes(rank, world, device)
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, device)
    finally:
        torch.distributed.destroy_process_group()


def shard(model: Any) -> Any:
    """Split every weight over the processes (FSDP2); a layer is whole only while it computes.

    Raises TrainingError when the model does not name its layers.
    """
    from torch.distributed.fsdp import fully_shard

    kinds = set(getattr(model.get_base_model(), "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise TrainingError(
            f"{type(model.get_base_model()).__name__} does not say what its layers are "
            "(_no_split_modules): use parallel=ddp"
        )
    for layer in layers:
        fully_shard(layer)
    return fully_shard(model)


def whole(tensor: "torch.Tensor") -> "torch.Tensor":
    """The tensor on the CPU, gathered when it is sharded: every process must call this."""
    gather = getattr(tensor, "full_tensor", None)
    return (gather() if gather else tensor).detach().cpu()


def assign(target: "torch.Tensor", value: "torch.Tensor") -> None:
    """Copy a whole tensor into `target`, which may be this process's share of it."""
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor

    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(
                value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
            )
        target.copy_(value)
