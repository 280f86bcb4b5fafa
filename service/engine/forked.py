"""What the fork server of ahead.py imports, and nothing else should: vLLM's engine.

The engine's process is forked from here, so no thread may start here.
"""

import ctypes
import gc
import signal

from setproctitle import setproctitle

from service.engine.garbage_collection import raise_gc_threshold

_PR_SET_PDEATHSIG = 1

setproctitle("mergeline::fork-server")  # first: the place is lost once variables are set
for _number in (signal.SIGINT, signal.SIGTERM):  # to the whole group: the server deals with it
    signal.signal(_number, signal.SIG_IGN)
if hasattr(ctypes.CDLL(None), "prctl"):  # end with the server also while importing
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
raise_gc_threshold()

import vllm.v1.engine.core  # noqa: E402, F401

gc.freeze()  # memory that no search for garbage writes to stays shared
