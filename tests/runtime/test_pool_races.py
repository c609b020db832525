"""The pool under the thread sanitizer, driven from C as hard as it goes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from graphc.backends.tvm.link import find_linker
from graphc.runtime import NATIVE_SOURCES

NATIVE = NATIVE_SOURCES[0].parent
HARNESS = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "pool.h"

static const GraphcPool* pool;
static int rounds;
typedef struct { long sums[64], seed; } Work;

static int task(int t, GraphcEnvironment* environment, void* data) {
  Work* work = data;
  work->sums[t] += work->seed * t + environment->num_task;  // plain memory: the sanitizer sees a task run twice at once
  return 0;
}
static void* call(void* argument) {
  long id = (long)argument;
  for (int i = 0; i < rounds; i++) {
    pool->enter(2 + id % 9);
    for (int j = 0; j < 25; j++) {
      Work work;
      memset(&work, 0, sizeof work);
      work.seed = i;
      int asked = (i + j) % 9;
      pool->launch(task, &work, asked);
      int tasks = asked ? asked : (int)work.sums[0];
      for (int t = 0; t < 64; t++) {
        long expected = t < tasks ? (long)i * t + tasks : 0;
        if (work.sums[t] != expected) { printf("task %d of %d: %ld\n", t, tasks, work.sums[t]); exit(1); }
      }
    }
    pool->leave();
  }
  return NULL;
}
int main(int argc, char** argv) {
  pool = graphc_pool();
  int callers = atoi(argv[1]);
  rounds = atoi(argv[2]);
  pthread_t threads[64];
  for (long i = 0; i < callers; i++) pthread_create(&threads[i], NULL, call, (void*)i);
  for (int i = 0; i < callers; i++) pthread_join(threads[i], NULL);
  // A notice left up would keep the workers spinning for ever.
  usleep(20000);
  clock_t before = clock();
  usleep(300000);
  double busy = (double)(clock() - before) / CLOCKS_PER_SEC;
  if (busy > 0.1) { printf("workers spin: %.3f s\n", busy); exit(1); }
  return 0;
}
"""


def compile_harness(folder: Path, *flags: str) -> Path:
    (folder / "harness.c").write_text(HARNESS.replace("#include", "#define _GNU_SOURCE\n#include", 1))
    program = folder / "harness"
    sources = [str(folder / "harness.c"), str(NATIVE / "pool.c")]
    command = [*find_linker().command, "-std=c11", "-O2", "-g", f"-I{NATIVE}", *flags, *sources, "-pthread"]
    done = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True, timeout=100, check=False)
    if done.returncode and flags:
        pytest.skip(f"this compiler has no thread sanitizer: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("callers", [1, 3, 12])
def test_tasks_run_once_and_workers_rest_afterwards(tmp_path: Path, callers: int) -> None:
    program = compile_harness(tmp_path)
    done = subprocess.run([program, str(callers), "2000"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("callers", [1, 2, 5, 12])
def test_no_data_races(tmp_path: Path, callers: int) -> None:
    program = compile_harness(tmp_path, "-fsanitize=thread")
    done = subprocess.run([program, str(callers), "3000"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
