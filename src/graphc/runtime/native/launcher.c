// Walks a table of kernel calls in one call from Python.
//
// Kernel ABI: int32_t kernel(const int64_t* dims, void* a0, ..., void* aN-1), at most 40 pointers; zero is success.
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "arity.h"
#include "launcher.h"
#include "pool.h"

// The pointer that TVM's objects launch parallel loops through; theirs is weak, this one wins.
int (*__TVMBackendParallelLaunch)(GraphcTask, void*, int);
static const GraphcPool* pool;

// TVM's objects refer to it for messages of checks; a kernel's status says all that is needed.
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  (void)kind;
  (void)parts;
  (void)count;
}

GRAPHC_EXPORT int32_t graphc_abi(void) { return GRAPHC_ABI; }

// Makes this library use `shared`, the pool of the first library of the process, or its own where versions differ.
// Returns the pool that it uses.
GRAPHC_EXPORT const GraphcPool* graphc_use_pool(const GraphcPool* shared) {
  pool = shared && shared->version == GRAPHC_POOL_VERSION ? shared : graphc_pool();
  __TVMBackendParallelLaunch = pool->launch;
  return pool;
}

GRAPHC_EXPORT int32_t graphc_workers(void) { return pool->workers(); }

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t graphc_rows(const Call* call, int64_t first, int64_t last, int64_t* stamps) {
  char** bases = call->bases;
  int64_t result = 0;
  for (int64_t i = first; i < last && !result; i++) {
    const Step* step = &call->steps[i];
    if (stamps) stamps[2 * i] = now_ns();
    if (step->kernel) {
      void* pointers[GRAPHC_MAX_ARGUMENTS];
      for (int64_t a = 0; a < step->argument_count; a++)
        pointers[a] = bases[step->arguments[a].base] + step->arguments[a].offset;
      int32_t status = graphc_call_kernel(step->kernel, step->dims, pointers, (int32_t)step->argument_count);
      if (status) result = i << 32 | (uint32_t)status;
    } else {
      result = graphc_control(call, i);
    }
    if (stamps) stamps[2 * i + 1] = now_ns();
  }
  return result;
}

GRAPHC_EXPORT int64_t graphc_run(const Call* call) {
  char** bases = call->bases;
  for (int64_t i = 0; i < call->array_count; i++) {
    intptr_t array = call->arrays[i];
    bases[call->first_array + i] = call->data_offset ? *(char**)(array + call->data_offset) : (char*)array;
  }
  pool->enter((int32_t)call->threads);
  int64_t result = graphc_rows(call, call->first, call->last, call->stamps);
  pool->leave();
  return result;
}
