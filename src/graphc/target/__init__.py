"""What a machine is and can do: instruction sets, widths, limits; what passes ask and backends answer."""

from graphc.target.capability import Capability, CostModel, Verdict, accepted, refused
from graphc.target.cpu import CPUS, Target
from graphc.target.cuda import GPUS, CudaTarget
from graphc.target.host import Processor, detect_host, read_processor
from graphc.target.names import AnyTarget, known_names, parse_target, parse_targets

__all__ = [
    "CPUS",
    "GPUS",
    "AnyTarget",
    "Capability",
    "CostModel",
    "CudaTarget",
    "Processor",
    "Target",
    "Verdict",
    "accepted",
    "detect_host",
    "known_names",
    "parse_target",
    "parse_targets",
    "read_processor",
    "refused",
]
