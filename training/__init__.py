"""Train an adapter and merge it into a model directory that any server can load."""

import logging
import sys

# bitsandbytes, which peft imports, fetches a kernel from a hub where the package `kernels` is there
# and the CPU has bf16 instructions, and warns where it is not. Nothing here uses that kernel, and
# no code from hubs runs.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # so that importing it fails
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
