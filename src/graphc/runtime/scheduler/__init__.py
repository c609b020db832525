"""One latency promise, kept: requests from many callers, in batches, on the devices of one machine."""

from __future__ import annotations

from graphc.runtime.scheduler.model import ServedModel
from graphc.runtime.scheduler.reply import Reply, Stages
from graphc.runtime.scheduler.scheduler import Scheduler
from graphc.runtime.scheduler.settings import ModelSettings
from graphc.runtime.scheduler.statistics import BatchReport, ModelStatistics, Observer

__all__ = ["BatchReport", "ModelSettings", "ModelStatistics", "Observer", "Reply", "Scheduler", "ServedModel", "Stages"]
